;; Calls itself without end. Stopped by the stack limit.
(module
  (memory (export "memory") 1)
  (func $deeper (export "_start") (call $deeper)))

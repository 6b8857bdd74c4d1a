;; A command that never ends. Stopped by the time limit.
(module
  (memory (export "memory") 1)
  (func (export "_start") (loop $again (br $again))))

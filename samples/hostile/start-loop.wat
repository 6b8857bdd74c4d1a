;; Never ends, and does so before anything is called: instantiating it must be limited, too.
(module
  (memory (export "memory") 1)
  (func $forever (loop $again (br $again)))
  (start $forever)
  (func (export "_start")))

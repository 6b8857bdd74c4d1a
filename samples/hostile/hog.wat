;; Grows its memory by 1 MiB until that is refused, then traps, so that an exit code of 0 never hides a missing limit.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $more
      (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable))

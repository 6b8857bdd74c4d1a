;; A command that imports what nobody offers. Refused before its first instruction.
(component
  (import "nope:nope/nope" (instance $nope (export "nope" (func))))
  (core func $nope_lowered (canon lower (func $nope "nope")))
  (core module $m
    (import "nope:nope/nope" "nope" (func $nope))
    (func (export "run") (result i32) (call $nope) (i32.const 0)))
  (core instance $i (instantiate $m
    (with "nope:nope/nope" (instance (export "nope" (func $nope_lowered))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))

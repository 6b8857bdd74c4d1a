/* A command that breaks in a function of a function, for backtraces with lines of the source.
 *
 * for v in 4 5; do clang --target=wasm32 -g -gdwarf-$v -O1 -nostdlib \
 *   -ffile-prefix-map=$PWD=/src -o fault-dwarf$v.wasm fault.c; done       (clang 14) */
typedef unsigned size;

__attribute__((import_module("wasi_snapshot_preview1"), import_name("fd_write")))
int fd_write(int fd, const void *list, size count, size *written);

struct part {
  const char *text;
  size length;
};

__attribute__((noinline)) static int divide(int by) {
  int result = 100;
  result /= by;
  return result;
}

__attribute__((noinline)) static void say(const char *text, size length) {
  struct part part = {text, length};
  size written;
  fd_write(1, &part, 1, &written);
}

__attribute__((export_name("_start"))) void _start(void) {
  say("before\n", divide(14));
  say("after\n", divide(0));
}

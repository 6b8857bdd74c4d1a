#include <stdio.h>

#include "http.h"

void handle(const request *req, response *res) {
  char text[512];
  snprintf(text, sizeof text, "hello from C: %s %s\n", req->method, req->path);
  response_text(res, 200, text);
}

// A picture for a name: GET /NAME.svg answers with five times five squares, the same for the same name.
#include <stdio.h>

#include "http.h"

enum { SIDE = 5, HALF = (SIDE + 1) / 2, SVG_MAX = 4096 };

// FNV-1a: every bit of the name changes about half of these.
static uint32_t hash_of(const char *name, size_t length) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619u;
  return hash;
}

static void draw(uint32_t hash, char *svg) {
  char *end = svg + SVG_MAX;
  svg += snprintf(svg, end - svg,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" fill=\"hsl(%u 60%% 45%%)\">\n",
                  SIDE, SIDE, hash % 360);
  for (int y = 0; y < SIDE; y++)
    for (int x = 0; x < SIDE; x++) {
      int column = x < HALF ? x : SIDE - 1 - x; // the right half mirrors the left
      if (hash >> (y * HALF + column + 9) & 1)
        svg += snprintf(svg, end - svg, "<rect x=\"%d\" y=\"%d\" width=\"1\" height=\"1\"/>\n", x, y);
    }
  snprintf(svg, end - svg, "</svg>\n");
}

void handle(const request *req, response *res) {
  const char *name = req->path + 1;
  size_t length = strcspn(name, "?");
  if (length <= 4 || strncmp(name + length - 4, ".svg", 4) != 0) {
    response_text(res, 404, "GET /NAME.svg\n");
    return;
  }
  char svg[SVG_MAX];
  draw(hash_of(name, length - 4), svg);
  response_header(res, "content-type", "image/svg+xml");
  response_header(res, "cache-control", "public, max-age=31536000, immutable");
  response_write(res, svg, strlen(svg));
}

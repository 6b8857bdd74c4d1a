// Makes app.wasm of app.js. `node build.mjs` runs it, and `margay build` does.
import { componentize } from '@bytecodealliance/componentize-js';
import { writeFile } from 'node:fs/promises';

const { component } = await componentize({
  sourcePath: 'app.js',
  witPath: 'wit/http.wit',
  worldName: 'http',
});
await writeFile('app.wasm', component);

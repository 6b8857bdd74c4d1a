// Makes app.wasm of ENTRY. `node build.mjs` runs it, and `margay build` does.
import { componentize } from '@bytecodealliance/componentize-js';
import { writeFile } from 'node:fs/promises';

const { component } = await componentize({
  sourcePath: 'ENTRY',
  witPath: 'wit/http.wit',
  worldName: 'http',
});
await writeFile('app.wasm', component);

import { getArguments } from 'wasi:cli/environment@0.2.10';

export const run = {
  run() {
    const [, name = 'world'] = getArguments();
    console.log(`hello ${name}, from JavaScript`);
  },
};

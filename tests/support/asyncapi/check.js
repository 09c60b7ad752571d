// Prints what the official parser finds in an AsyncAPI document, by its path; exit code 0 where nothing is wrong.
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";

const [source] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(source, "utf-8"), { source });
const errors = diagnostics.filter(({ severity }) => severity < 2);
for (const { code, path, message } of errors) console.log(code, path.join("/"), message);
if (document) {
  for (const channel of document.allChannels().all()) {
    console.log("channel", channel.address(), channel.messages().all().map((message) => message.name()).join(","));
  }
}
process.exit(document && errors.length === 0 ? 0 : 1);

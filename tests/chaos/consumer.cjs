// A consumer in another language, for `python -m tests.chaos --also`, with nothing but the README's rule: the event's id
// goes into a table with a unique key, in the transaction of its effect; on conflict the effect is skipped; the
// acknowledgement comes after the commit.
//
//   npm install --prefix /tmp/consumer amqplib better-sqlite3
//   NODE_PATH=/tmp/consumer/node_modules python -m tests.chaos --also "node tests/chaos/consumer.cjs" …
//
// Its effect is a row of the table "effect", whose lines it also appends to the file that CHAOS_EFFECTS names; lines that
// a kill kept back are appended at the next start. It ends with its connection; the run starts it again.
const fs = require("fs");
const amqp = require("amqplib");
const Database = require("better-sqlite3");

const { CHAOS_AMQP_URL, CHAOS_QUEUE, CHAOS_EFFECTS } = process.env;
const database = new Database(`${CHAOS_EFFECTS}.db`);
database.pragma("journal_mode = WAL");
database.exec("CREATE TABLE IF NOT EXISTS inbox (event_id TEXT PRIMARY KEY) WITHOUT ROWID");
database.exec("CREATE TABLE IF NOT EXISTS effect (position INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL)");
const remember = database.prepare("INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING");
const effect = database.prepare("INSERT INTO effect (line) VALUES (?)");

function writeLines() {
  const written = fs.existsSync(CHAOS_EFFECTS) ? fs.readFileSync(CHAOS_EFFECTS, "utf8").split("\n").length - 1 : 0;
  const missing = database.prepare("SELECT line FROM effect ORDER BY position LIMIT -1 OFFSET ?").all(written);
  if (missing.length) fs.appendFileSync(CHAOS_EFFECTS, missing.map((row) => row.line).join(""));
}

const apply = database.transaction((event) => {
  if (remember.run(event.id).changes === 0) return null;
  const line = [event.id, event.sequence, event.subject, event.data.revision].join("\t") + "\n";
  effect.run(line);
  return line;
});

async function main() {
  writeLines();
  const connection = await amqp.connect(CHAOS_AMQP_URL);
  connection.on("close", () => process.exit(1));
  connection.on("error", () => {});
  const channel = await connection.createChannel();
  channel.on("error", () => process.exit(1));
  await channel.prefetch(100);
  await channel.consume(CHAOS_QUEUE, (message) => {
    if (message === null) process.exit(1); // the queue has gone
    const event = JSON.parse(message.content.toString());
    const line = event.type === "pbx.account.changed" ? apply(event) : null;
    if (line !== null) fs.appendFileSync(CHAOS_EFFECTS, line);
    channel.ack(message);
  });
}

main().catch((problem) => {
  console.error(String(problem));
  process.exit(1);
});

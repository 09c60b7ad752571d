// A consumer in another language, for `python -m tests.chaos --also`, with nothing but the README's rule: the event's id
// goes into a table with a unique key, in the transaction of its effect; on conflict the effect is skipped; the
// acknowledgement comes after the commit.
//
//   npm install --prefix /tmp/consumer amqplib node-sqlite3-wasm
//   NODE_PATH=/tmp/consumer/node_modules python -m tests.chaos --also "node tests/chaos/consumer.cjs" …
//
// Its effect is a row of the table "effect", whose lines it also appends to the file that CHAOS_EFFECTS names; lines that
// a kill kept back are appended at the next start. It ends with its connection; the run starts it again.
const fs = require("fs");
const amqp = require("amqplib");
const { Database } = require("node-sqlite3-wasm");

const { CHAOS_AMQP_URL, CHAOS_QUEUE, CHAOS_EFFECTS } = process.env;
// This build of SQLite locks by a folder, which a kill leaves behind.
fs.rmSync(`${CHAOS_EFFECTS}.db.lock`, { recursive: true, force: true });
const database = new Database(`${CHAOS_EFFECTS}.db`);
database.exec("CREATE TABLE IF NOT EXISTS inbox (event_id TEXT PRIMARY KEY) WITHOUT ROWID");
database.exec("CREATE TABLE IF NOT EXISTS effect (position INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL)");

function writeLines() {
  const written = fs.existsSync(CHAOS_EFFECTS) ? fs.readFileSync(CHAOS_EFFECTS, "utf8").split("\n").length - 1 : 0;
  const missing = database.all("SELECT line FROM effect WHERE position > ? ORDER BY position", [written]);
  if (missing.length) fs.appendFileSync(CHAOS_EFFECTS, missing.map((row) => row.line).join(""));
}

function apply(event) {
  const line = [event.id, event.sequence, event.subject, event.data.revision].join("\t") + "\n";
  database.exec("BEGIN IMMEDIATE");
  const isNew = database.run("INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING", [event.id]).changes === 1;
  if (isNew) database.run("INSERT INTO effect (line) VALUES (?)", [line]);
  database.exec("COMMIT");
  if (isNew) fs.appendFileSync(CHAOS_EFFECTS, line);
}

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
    if (event.type === "pbx.account.changed") apply(event);
    channel.ack(message);
  });
}

main().catch((problem) => {
  console.error(String(problem));
  process.exit(1);
});

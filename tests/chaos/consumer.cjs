// A consumer in another language, for `python -m tests.chaos --also`, with nothing but the README's rule: one row for each
// account, with the lineage and the revision that were applied last, in the transaction of the effect; a change is
// applied where its own are greater; a certificate that completes a lineage tells who is gone; the acknowledgement comes
// after the commit.
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
database.exec(`CREATE TABLE IF NOT EXISTS pbx_inbox (source TEXT, account TEXT, guid TEXT, lineage TEXT, revision INTEGER,
  is_deleted INTEGER, PRIMARY KEY (source, account)) WITHOUT ROWID`);
database.exec("CREATE TABLE IF NOT EXISTS effect (position INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL)");
const accept = database.prepare(`INSERT INTO pbx_inbox SELECT :source, :account, :guid, :lineage, :revision, :is_deleted
  WHERE NOT EXISTS (SELECT 1 FROM pbx_inbox WHERE source = :source AND account = '-' AND lineage > :lineage)
  ON CONFLICT (source, account) DO UPDATE SET guid = excluded.guid, lineage = excluded.lineage,
    revision = excluded.revision, is_deleted = excluded.is_deleted
  WHERE (excluded.lineage, excluded.revision) > (pbx_inbox.lineage, pbx_inbox.revision)`);
const complete = database.prepare(`INSERT INTO pbx_inbox VALUES (:source, '-', '-', :lineage, 0, 0)
  ON CONFLICT (source, account) DO UPDATE SET lineage = excluded.lineage WHERE excluded.lineage > pbx_inbox.lineage`);
const older = "source = :source AND account <> '-' AND lineage < :lineage";
const gone = database.prepare(`SELECT guid FROM pbx_inbox WHERE ${older} AND is_deleted = 0`);
const forget = database.prepare(`DELETE FROM pbx_inbox WHERE ${older}`);
const effect = database.prepare("INSERT INTO effect (line) VALUES (?)");

function writeLines() {
  const written = fs.existsSync(CHAOS_EFFECTS) ? fs.readFileSync(CHAOS_EFFECTS, "utf8").split("\n").length - 1 : 0;
  const missing = database.prepare("SELECT line FROM effect ORDER BY position LIMIT -1 OFFSET ?").all(written);
  if (missing.length) fs.appendFileSync(CHAOS_EFFECTS, missing.map((row) => row.line).join(""));
}

function noted(id, source, lineage, sequence, guid, revision, account) {
  const told = account === null ? "" : JSON.stringify(account);
  const line = [id, source, lineage, sequence, guid, revision, told].join("\t") + "\n";
  effect.run(line);
  return line;
}

const apply = database.transaction((event) => {
  const { source, lineage, sequence, id, data } = event;
  if (event.type === "pbx.source.verified") {
    if (!data.completes_lineage || complete.run({ source, lineage }).changes === 0) return "";
    const lines = gone
      .all({ source, lineage })
      .map(({ guid }) => noted(`${id} ${guid}`, source, lineage, sequence, guid, 0, null));
    forget.run({ source, lineage });
    return lines.join("");
  }
  if (event.type !== "pbx.account.changed") return "";
  const { guid } = data.account;
  const account = guid.replaceAll("-", "").toLowerCase();
  const is_deleted = data.change === "deleted" ? 1 : 0;
  if (accept.run({ source, account, guid, lineage, revision: data.revision, is_deleted }).changes === 0) return "";
  return noted(id, source, lineage, sequence, guid, data.revision, is_deleted ? null : data.account);
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
    const lines = apply(JSON.parse(message.content.toString()));
    if (lines) fs.appendFileSync(CHAOS_EFFECTS, lines);
    channel.ack(message);
  });
}

main().catch((problem) => {
  console.error(String(problem));
  process.exit(1);
});

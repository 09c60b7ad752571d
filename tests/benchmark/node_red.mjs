// Node-RED doing the walk of `walk_loopback` with its own WebSocket nodes, a function, and the AMQP node.
//   node node_red.mjs '{"url":…,"host":…,"port":…,"exchange":…,"app":…,"password":…,"accounts":…,"folder":…}'
// Prints {"seconds":…,"cpu_seconds":…} when the list is at its end, and ends when its stdin does. It keeps nothing, and
// waits for no confirm.
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const RED = createRequire(process.env.BENCHMARK_MODULES + "/")("node-red");
const wanted = JSON.parse(process.argv[2]);

function step(msg, context, global) {
  const walk = global.get("walk");
  const say = (message) => [{ payload: JSON.stringify(message) }, null];
  if (msg.status) {
    const ready = context.get("ready") || {};
    ready[msg.status.source.id] = msg.status.fill === "green" && msg.status.shape === "dot";
    context.set("ready", ready);
    return ready.from_pbx && ready.to_broker ? say({ mt: "AppChallenge" }) : null;
  }
  const answer = JSON.parse(msg.payload);
  if (answer.mt === "AppChallengeResult") return say(walk.login(answer.challenge));
  const head = { api: "PbxAccountApi", mt: "AccountInfo", src: "acct-1" };
  if (answer.mt === "AppLoginResult") return say(head);
  if (!answer["account-guid"]) {
    if (context.get("guid")) { walk.over(); return null; }
    context.set("guid", answer.guid);
    walk.begin();
    return say({ ...head, guid: answer.guid });
  }
  const question = { ...head, guid: context.get("guid"), usn: answer.usn, ausn: answer.ausn };
  const { dn, h323, e164, emails } = answer.info;
  const told = { guid: answer["account-guid"], usn: answer.usn, ausn: answer.ausn, dn, h323, e164, emails };
  walk.rows += 1;
  return [{ payload: JSON.stringify(question) }, { payload: JSON.stringify(told) }];
}

const walk = {
  rows: 0,
  login(challenge) {
    const text = [wanted.app, "", "", "", "", challenge, wanted.password].join(":");
    const digest = createHash("sha256").update(text).digest("hex");
    return { mt: "AppLogin", app: wanted.app, domain: "", sip: "", guid: "", dn: "", digest };
  },
  begin() {
    this.busy = process.cpuUsage();
    this.began = process.hrtime.bigint();
  },
  over() {
    const seconds = Number(process.hrtime.bigint() - this.began) / 1e9;
    const { user, system } = process.cpuUsage(this.busy);
    if (this.rows !== wanted.accounts) throw new Error(`${this.rows} accounts instead of ${wanted.accounts}`);
    console.log(JSON.stringify({ seconds, cpu_seconds: (user + system) / 1e6 }));
    process.stdin.on("end", () => process.exit()).resume();
  },
};

const nodes = [
  { id: "tab", type: "tab", label: "walk" },
  { id: "pbx", type: "websocket-client", path: wanted.url, tls: "", wholemsg: "false", hb: "0", subprotocol: "" },
  { id: "broker", type: "amqp-server", host: wanted.host, port: `${wanted.port}`, vhost: "", keepalive: "" },
  { id: "ready", z: "tab", type: "status", scope: ["from_pbx", "to_broker"], wires: [["step"]] },
  { id: "from_pbx", z: "tab", type: "websocket in", server: "", client: "pbx", wires: [["step"]] },
  { id: "to_pbx", z: "tab", type: "websocket out", server: "", client: "pbx", wires: [] },
  {
    id: "to_broker", z: "tab", type: "amqp out", server: "broker", iotype: "3", ioname: wanted.exchange,
    routingkey: "p0.account.created", wires: [],
  },
  {
    id: "step", z: "tab", type: "function", outputs: 2, libs: [], wires: [["to_pbx"], ["to_broker"]],
    func: `return (${step})(msg, context, global);`,
  },
];
const flow = join(wanted.folder, "flow.json");
writeFileSync(flow, JSON.stringify(nodes));
RED.init(createServer(), {
  userDir: process.env.BENCHMARK_MODULES, flowFile: flow, httpAdminRoot: false, httpNodeRoot: false,
  credentialSecret: false, functionGlobalContext: { walk }, logging: { console: { level: "off" } },
});
await RED.start();

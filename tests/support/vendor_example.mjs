// The vendor's PbxAccountApi page, run by Node and by nothing of ours: `node --experimental-websocket vendor_example.mjs`
//
//   service URL APP PASSWORD   dials a PBX, logs in as the AppWebsocket page says, and runs the page's own example
//   pbx URL APP PASSWORD       is a PBX with three accounts that dials a service, and answers as the page says
//
// Prints one JSON line about each thing that happened; the reader ends it.
import { createHash } from "node:crypto";

const [, , role, url, app, password] = process.argv;
const socket = new WebSocket(url);
const tell = (what) => console.log(JSON.stringify(what));
const send = (message) => socket.send(JSON.stringify(message));
const digestOf = (login, challenge) => {
  const parts = [login.app, login.domain, login.sip, login.guid, login.dn];
  if (login.info) parts.push(JSON.stringify(login.info));
  return createHash("sha256").update([...parts, challenge, password].join(":")).digest("hex");
};
const logIn = (login, challenge) => send({ mt: "AppLogin", ...login, digest: digestOf(login, challenge) });

// What the example expects of the vendor's runtime: a connection with send, onmessage and onclose.
function example(conn) {
  let guid = null, usn = null, ausn = null;
  const sendAccountInfo = () => conn.send(JSON.stringify({ api: "PbxAccountApi", mt: "AccountInfo", guid, usn, ausn }));
  sendAccountInfo();
  const intervalId = setInterval(sendAccountInfo, 120000);
  conn.onmessage((msg) => {
    const obj = JSON.parse(msg);
    if (obj.mt == "AccountInfoResult") {
      if (obj.guid && !guid) {
        guid = obj.guid;
        conn.send(JSON.stringify({ mt: "AccountInfo", api: "PbxAccountApi", guid }));
      }
      if (obj["account-guid"]) {
        tell({ account: obj["account-guid"], h323: obj["account-h323"] });
        conn.send(JSON.stringify({ mt: "AccountInfo", api: "PbxAccountApi", guid, usn: obj.usn, ausn: obj.ausn }));
        usn = obj.usn;
        ausn = obj.ausn;
      }
    }
  });
  conn.onclose(() => clearInterval(intervalId));
}

const service = {
  open: () => send({ mt: "AppChallenge" }),
  AppChallengeResult: ({ challenge }) => logIn({ app, domain: "", sip: "", guid: "", dn: "" }, challenge),
  AppLoginResult: ({ ok }) => {
    tell({ loggedIn: ok === true });
    example({
      send: (text) => socket.send(text),
      onmessage: (take) => socket.addEventListener("message", ({ data }) => take(data)),
      onclose: (take) => socket.addEventListener("close", take),
    });
  },
};

const rows = [1, 2, 3].map((number) => ({
  usn: String(number), ausn: "1", "account-guid": `account-${number}`, "account-h323": `user${number}`,
  info: { cn: `Jürgen / ${number}` },
}));
const pbx = {
  open: () => send({ mt: "AppChallenge" }),
  AppChallengeResult: ({ challenge }) => {
    const info = { appobj: app, appdn: "Überall/Konten", appurl: "https://x/y", pbx: "node", cn: app, apps: [] };
    logIn({ app: "acct", domain: "example.com", sip: app, guid: "0".repeat(32), dn: "Überall, Konten", info }, challenge);
  },
  AppLoginResult: ({ ok }) => {
    tell({ loggedIn: ok === true });
    if (ok) send({ mt: "PbxInfo", domain: "example.com", pbx: "node", pbxDns: "x", apis: ["PbxAccountApi"], version: "16r1" });
    if (ok) send({ mt: "AppInfo", app: "acct", src: "1" });
  },
  AppInfoResult: (message) => tell({ appInfo: message.app }),
  AccountInfo: ({ src, guid, usn }) => {
    const answer = { api: "PbxAccountApi", mt: "AccountInfoResult", src, guid: "e".repeat(32) };
    const next = rows.find((row) => Number(row.usn) > Number(usn ?? 0));
    send(guid && next ? { ...answer, ...next } : answer);
    if (guid && !next) tell({ readTo: usn });
  },
};

const part = { service, pbx }[role];
socket.addEventListener("open", () => part.open());
socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  part[message.mt]?.(message);
});
socket.addEventListener("error", ({ message }) => tell({ error: message }));

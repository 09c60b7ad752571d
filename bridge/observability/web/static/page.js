// The page asks the bridge every two seconds and shows what it says. Whatever comes from a PBX is put in as text.

import { Charts, duration } from "./charts.js";

const POLL_MS = 2000, PATIENCE_MS = 8000, HISTORY_MS = 10000, CHANGES_MS = 15000, MANY_CARDS = 12, FEW_CHANGES = 15;
const WORDS = { ok: "All well", warn: "Look at this", paused: "Paused", error: "Needs attention" };
const OWN_WORDS = { bridge: "The bridge", broker: "Broker", outbox: "Outbox" };
const PART_WORDS = { ok: "ok", warn: "warning", paused: "paused", error: "error" };

const byId = (id) => document.getElementById(id);
const page = { status: null, skew: 0, answeredAt: null, seen: "", changesAt: 0, historyAt: 0, span: "hour", positions: new Set() };
const charts = new Charts(byId("charts"), clock);
const cards = new Map();

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function foreign(text, name = "bdi") { // a text that is not ours: isolated, whatever its direction
  const made = element(name, "", text);
  made.dir = "auto";
  return made;
}

function unbroken(text) { // a number stays with its unit
  return text.replace(/(\d) (s|min|h|days)\b/g, "$1\u00a0$2");
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clock(date) {
  const now = new Date(Date.now() + page.skew);
  const isToday = date.toDateString() === now.toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return isToday ? time : `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

function ago(iso) {
  if (!iso) return "never";
  const passed = (Date.now() + page.skew - Date.parse(iso)) / 1000;
  if (passed < -PATIENCE_MS / 1000) return `${clock(new Date(iso))}, in the future: the clock was wrong when it was written`;
  const seconds = Math.max(0, passed);
  if (seconds < 120) return `${Math.floor(seconds)} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86400)} days ago`;
}

function moment(iso) {
  const made = element("time", "", clock(new Date(iso)));
  made.dateTime = iso;
  made.title = new Date(iso).toLocaleString();
  return made;
}

function showSentences(told) {
  set(byId("lead"), told[0].join(""));
  const rest = told.slice(1).flatMap((sentence) => [
    ...sentence.map((part) => (typeof part === "string" ? foreign(unbroken(part)) : moment(part.at))), " ",
  ]);
  byId("rest").replaceChildren(...rest);
}

function showProblems(problems) {
  const seen = JSON.stringify(problems);
  const host = byId("problems");
  if (host.dataset.seen === seen) return;
  host.dataset.seen = seen;
  host.replaceChildren(...problems.slice(0, 20).map((problem) => {
    const made = element("article", "problem"), head = element("h3");
    made.dataset.level = problem.level;
    head.append(foreign(OWN_WORDS[problem.where] ?? problem.where));
    if (problem.since) head.append(" ", since(problem.since));
    made.append(head, foreign(/[.!?]$/.test(problem.words) ? problem.words : `${problem.words}.`, "p"));
    return made;
  }));
  if (problems.length > 20) host.append(element("p", "rest", `… and ${problems.length - 20} more.`));
}

function since(iso) {
  const made = moment(iso);
  made.prepend("since ");
  return made;
}

function showFigures(status) {
  const broker = status.broker;
  const figures = [
    ["Waiting to be sent", (status.unsent + status.held).toLocaleString()],
    ["Sent since the start", status.published.toLocaleString()],
    ["Broker", broker.is_usable ? "connected" : broker.problem ? "not usable" : broker.doing.split(":")[0]],
    ["Last confirm", ago(broker.last_progress_at)],
  ];
  if (status.oldest_unsent_seconds !== null) figures.push(["Oldest has waited", duration(Math.max(0, status.oldest_unsent_seconds))]);
  if (status.parked) figures.push(["Parked", status.parked.toLocaleString()]);
  if (status.in_doubt) figures.push(["In doubt", status.in_doubt.toLocaleString()]);
  showPairs(byId("figures"), figures);
}

function showPairs(list, pairs) {
  while (list.children.length > pairs.length) list.lastElementChild.remove();
  pairs.forEach(([name, value], index) => {
    let pair = list.children[index];
    if (!pair) {
      pair = element("div");
      pair.append(element("dt"), element("dd"));
      list.append(pair);
    }
    set(pair.firstChild, name);
    set(pair.lastChild, value);
  });
}

function card(name) {
  const box = element("article", "card"), head = element("div", "card-head"), level = element("p", "level");
  const doing = element("p", "card-doing"), walk = element("p", "walk"), walkWords = element("span");
  const bar = element("progress"), facts = element("dl");
  const more = element("details"), cursor = element("code");
  bar.setAttribute("aria-label", `Full walk of ${name}`);
  head.append(foreign(name, "h3"), level);
  walk.append(walkWords, bar);
  more.append(element("summary", "", "Cursor"), cursor);
  box.append(head, doing, walk, facts, more);
  return { box, level, doing, walk, walkWords, bar, facts, cursor };
}

function showCard(parts, pbx) {
  parts.level.dataset.level = pbx.level;
  set(parts.level, PART_WORDS[pbx.level]);
  set(parts.doing, `${pbx.doing[0].toUpperCase()}${pbx.doing.slice(1)} since ${clock(new Date(pbx.since))}`);
  showWalk(parts, pbx);
  const facts = [
    ["Accounts", pbx.accounts === null ? "not counted yet" : pbx.accounts.toLocaleString()],
    [pbx.absent ? "Last full walk" : "Proven complete", pbx.verified_at ? ago(pbx.verified_at) : "not yet"],
    ["Last answer", ago(pbx.last_progress_at)],
  ];
  if (pbx.absent) facts.push(["Match", (pbx.accounts - pbx.absent).toLocaleString()]);
  const unseen = pbx.absent - pbx.deletions_held;
  if (unseen) facts.push(["Not seen", `${unseen.toLocaleString()}; ${secondWalk(pbx)}`]);
  if (pbx.last_change_at) facts.push(["Last change", ago(pbx.last_change_at)]);
  if (pbx.last_confirm_at) facts.push(["Last confirm", ago(pbx.last_confirm_at)]);
  if (pbx.unsent) facts.push(["Waiting", pbx.unsent.toLocaleString()]);
  if (pbx.parked) facts.push(["Parked", pbx.parked.toLocaleString()]);
  if (pbx.in_doubt) facts.push(["In doubt", pbx.in_doubt.toLocaleString()]);
  if (pbx.deletions_held) facts.push(["Deletions held", pbx.deletions_held.toLocaleString()]);
  showPairs(parts.facts, facts);
  const cursor = Object.entries(pbx.cursor).map(([name, value]) => `${name} ${value}`).join("\n");
  set(parts.cursor, cursor || "at the start");
}

function secondWalk(pbx) {
  if (pbx.walk) return "a second walk is under way";
  const at = pbx.second_look_at && new Date(pbx.second_look_at);
  return at > Date.now() + page.skew ? `a second walk at ${clock(at)} decides` : "a second walk decides as soon as it can begin";
}

function showWalk(parts, pbx) {
  parts.walk.hidden = pbx.walk === null;
  if (pbx.walk === null) return;
  const { accounts, expected } = pbx.walk;
  parts.walk.dataset.level = pbx.is_walk_stalled ? "warn" : "ok";
  const of = expected ? ` of about ${expected.toLocaleString()}` : "";
  set(parts.walkWords, `Full walk${pbx.is_walk_stalled ? ", stuck" : ""}: ${accounts.toLocaleString()}${of} accounts`);
  if (expected) {
    parts.bar.max = Math.max(expected, accounts);
    parts.bar.value = accounts;
  } else {
    parts.bar.removeAttribute("value");
  }
}

function showCards(sources) {
  const rank = { error: 0, paused: 1, warn: 2, ok: 3 };
  const wanted = byId("filter").value.trim().toLowerCase();
  const names = Object.keys(sources)
    .filter((name) => name.includes(wanted))
    .sort((a, b) => rank[sources[a].level] - rank[sources[b].level] || (a < b ? -1 : 1));
  const isAll = byId("all").dataset.all === "yes";
  const shown = isAll ? names : names.slice(0, MANY_CARDS);
  byId("filter").hidden = Object.keys(sources).length <= MANY_CARDS;
  byId("all").hidden = shown.length === names.length;
  set(byId("all"), `Show all ${names.length}`);
  const host = byId("cards");
  shown.forEach((name, index) => {
    if (!cards.has(name)) cards.set(name, card(name));
    const parts = cards.get(name);
    showCard(parts, sources[name]);
    if (host.children[index] !== parts.box) host.insertBefore(parts.box, host.children[index] ?? null);
  });
  while (host.children.length > shown.length) host.lastElementChild.remove();
}

function change(told) {
  const line = element("li", "change");
  const who = element("div", "who"), what = element("div", "told");
  line.tabIndex = -1; // the first new one takes the focus after "Show more"
  const words = element("span", "what", told.what);
  words.dataset.kind = told.kind;
  who.append(foreign(told.account), foreign(told.source, "span"));
  who.lastChild.className = "from";
  what.append(words);
  if (told.differences.length) {
    const list = element("ul");
    for (const { field, before, after } of told.differences) {
      const item = element("li");
      item.append(`${field}: `, foreign(before, "del"), " → ", foreign(after, "ins"));
      list.append(item);
    }
    if (told.more) list.append(element("li", "", `and ${told.more} more`));
    what.append(list);
  }
  const state = element("span", "state", told.state === "sent" ? "sent" : told.state);
  state.dataset.state = told.state;
  if (told.sent_at) state.title = `confirmed ${new Date(told.sent_at).toLocaleString()}`;
  line.append(moment(told.at), who, what, state);
  return line;
}

function showChanges(told) {
  page.changes = told;
  const isFirst = page.positions.size === 0;
  byId("no-changes").hidden = told.length > 0;
  const isAll = byId("more").dataset.all === "yes";
  byId("more").hidden = isAll || told.length <= FEW_CHANGES;
  set(byId("more"), `Show ${told.length - FEW_CHANGES} more`);
  byId("changes").replaceChildren(...(isAll ? told : told.slice(0, FEW_CHANGES)).map((one) => {
    const line = change(one);
    if (!isFirst && !page.positions.has(one.position)) line.classList.add("is-new");
    return line;
  }));
  page.positions = new Set(told.map((one) => one.position));
}

function show(status) {
  page.skew = Date.parse(status.now) - Date.now();
  page.status = status;
  page.answeredAt = Date.now();
  document.body.classList.remove("is-gone");
  byId("gone").hidden = true;
  const level = byId("level");
  level.dataset.level = status.level;
  set(level, WORDS[status.level]);
  document.title = status.level === "ok" ? "Account bridge" : `${WORDS[status.level]} · Account bridge`;
  showSentences(status.headline);
  showProblems(status.boxes);
  showFigures(status);
  showCards(status.sources);
  byId("left").replaceChildren(...Object.values(status.left).map((left) => foreign(left.sentence, "p")));
  set(byId("about"), `pbx-account-bridge ${status.version}, running since ${new Date(status.started_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`);
}

function showGone(problem) {
  document.body.classList.add("is-gone");
  const level = byId("level");
  level.dataset.level = "error";
  set(level, "No answer");
  document.title = "No answer · Account bridge";
  const gone = byId("gone");
  const seen = page.answeredAt ? ` since ${clock(new Date(page.answeredAt + page.skew))}` : "";
  set(gone, `No answer from the bridge${seen} (${problem}). Is it running? Its log says why it stopped; nothing is lost.`);
  gone.hidden = false;
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS), headers: { Accept: "application/json" } });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    show(await ask("status"));
  } catch (problem) {
    showGone(problem.name === "TimeoutError" ? `nothing for ${PATIENCE_MS / 1000} s` : problem.message);
    return;
  }
  const now = Date.now();
  const { published, unsent, held, parked, in_doubt: doubt, sources } = page.status;
  const seen = [published, unsent, held, parked, doubt, ...Object.values(sources).map((pbx) => pbx.changes)].join();
  try {
    if (seen !== page.seen || now - page.changesAt > CHANGES_MS) {
      showChanges(await ask("changes"));
      [page.seen, page.changesAt] = [seen, now];
    }
    if (now - page.historyAt > HISTORY_MS) {
      charts.show(await ask(`history?span=${page.span}`));
      page.historyAt = now;
    }
  } catch (problem) { // the next round asks again; what stands there stays
    console.warn(`what happened before is not told: ${problem.message}`);
  }
}

let isRefreshing = false;
async function round() {
  if (isRefreshing || document.hidden) return;
  isRefreshing = true;
  try {
    await refresh();
  } finally {
    isRefreshing = false;
  }
}

byId("filter").addEventListener("input", () => showCards(page.status.sources));
byId("all").addEventListener("click", () => {
  byId("all").dataset.all = "yes";
  showCards(page.status.sources);
});
byId("more").addEventListener("click", () => {
  byId("more").dataset.all = "yes";
  showChanges(page.changes);
  byId("changes").children[FEW_CHANGES].focus();
});
for (const radio of document.querySelectorAll("input[name=span]")) {
  radio.addEventListener("change", () => {
    [page.span, page.historyAt] = [radio.value, 0];
    round();
  });
}
document.addEventListener("visibilitychange", round);
setInterval(round, POLL_MS);
round();

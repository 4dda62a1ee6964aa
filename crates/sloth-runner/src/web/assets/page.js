// The page of a master: to look at its fleet. What agents say comes into the page as text alone: never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 10000;      // What no event tells: heartbeats.
const SOON_MS = 400;           // Events come in crowds.
const SILENCE_MS = 25000;      // The master says something every 10 s.
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const EVENTS_MAX = 200, SESSIONS_MAX = 50, TEXT_MAX = 262144, DAY_MS = 86400000;
const KEY = "sloth-key";
const STATUSES = ["Active", "Inactive", "Stopped"];

const state = {
  standing: null, fleet: { status: "", q: "", labels: {}, sort: "trouble", offset: 0 }, limit: 100,
  agent: null, open: new Map(), commands: [], lastSeq: 0, skew: 0, stream: null, soon: 0,
};

// ------------------------------------------------------------------------------------------------------ small helpers

/** An element with attributes and children; texts become text. */
function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}
function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
function show(node, shown) { node.hidden = !shown; }
function say(node, text) { node.textContent = text || ""; show(node, Boolean(text)); }
function theirs(text) { return el("span", { class: "theirs" }, String(text)); }

const now = () => Date.now() + state.skew;
const count = (number) => number.toLocaleString("en");

function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return s + " s";
  if (s < 7200) return Math.floor(s / 60) + " min";
  if (s < 172800) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor((s % 86400) / 3600) + " h";
}
function ago(ms) {
  const s = Math.round((now() - ms) / 1000);
  if (s < 5) return "just now";
  if (s < 120) return s + " s ago";
  if (s < 7200) return Math.floor(s / 60) + " min ago";
  if (s < 172800) return Math.floor(s / 3600) + " h ago";
  return Math.floor(s / 86400) + " d ago";
}
/** A time that stays right while the page is open. */
function when(iso) {
  if (!iso) return el("span", { class: "quiet" }, "never");
  const node = el("time", { datetime: iso, title: new Date(iso).toLocaleString() });
  node.textContent = ago(Date.parse(iso));
  return node;
}
function clock(iso) {
  const date = new Date(iso), sameDay = new Date(now()).toDateString() === date.toDateString();
  const text = sameDay ? date.toLocaleTimeString([], { hour12: false }) : date.toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false });
  return el("time", { datetime: iso, title: date.toLocaleString(), class: "fixed" }, text);
}
function size(bytes) {
  if (bytes < 1024) return bytes + " B";
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    bytes /= 1024;
    if (bytes < 1024 || unit === "TiB") return bytes.toFixed(bytes < 10 ? 1 : 0) + " " + unit;
  }
}

/** Colour, shape and word. */
function shape(status) {
  const icon = svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
  if (status === "Active") icon.append(svg("circle", { cx: 6, cy: 6, r: 5, fill: "currentColor" }));
  else if (status === "Inactive") icon.append(svg("path", { d: "M6 .8 11.6 11H.4Z", fill: "currentColor" }));
  else if (status === "Stopped") icon.append(svg("rect", { x: 1.5, y: 1.5, width: 9, height: 9, rx: 1, fill: "none", stroke: "currentColor", "stroke-width": 2 }));
  else icon.append(svg("circle", { cx: 6, cy: 6, r: 4, fill: "none", stroke: "currentColor", "stroke-width": 2 }));
  return icon;
}
function mark(status, text) {
  const known = STATUSES.includes(status) ? status : "Unknown";
  return el("span", { class: "mark " + known }, shape(status), text || status);
}

// --------------------------------------------------------------------------------------------------- talking to the master

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}
function key() {
  try { return localStorage.getItem(KEY) || ""; } catch { return ""; }
}
function keep(value) {
  try { value ? localStorage.setItem(KEY, value) : localStorage.removeItem(KEY); } catch { /* then each visit signs in anew */ }
}
async function ask(path, options = {}) {
  const headers = { ...options.headers, "sloth-key": key() };
  const response = await fetch("api/" + path, { ...options, headers, credentials: "same-origin", cache: "no-store", redirect: "error" });
  if (response.ok) return response;
  let text = "the master answers with " + response.status;
  try { text = (await response.json()).error || text; } catch { /* not its own words */ }
  if (response.status === 401 && path !== "session") signedOut();
  throw new Refused(response.status, text);
}
async function get(path) { return (await ask(path)).json(); }
const cause = (error) => error instanceof Refused ? error.message : "The master cannot be reached.";

// ------------------------------------------------------------------------------------------------------------- signing in

async function start() {
  const code = /^#code=([0-9a-f]+)$/.exec(location.hash);
  if (code) {
    history.replaceState(null, "", location.pathname + "#/");
    if (!await signIn({ code: code[1] })) return;
  }
  await look();
}
async function look() {
  try {
    const standing = await get("session");
    state.standing = standing;
    if (!standing.role) return signedOut();
    $("master").textContent = standing.master + " · " + standing.version;
    document.body.classList.remove("alone");
    show($("sign-in"), false);
    show($("sign-out"), true); show($("events"), true); show($("link"), true);
    route();
    follow();
  } catch (error) {
    signedOut(cause(error));
  }
}
async function signIn(shown) {
  try {
    const response = await ask("session", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(shown) });
    keep((await response.json()).key);
    return true;
  } catch (error) {
    await signedOut(cause(error));
    return false;
  }
}
async function signedOut(problem) {
  if (state.stream) state.stream.abort();
  state.stream = null;
  state.agent = null;
  document.body.classList.add("alone");
  for (const id of ["fleet", "agent", "events", "link", "sign-out"]) show($(id), false);
  $("event-list").replaceChildren(); state.lastSeq = 0; $("master").textContent = "";
  if (!state.standing) { try { state.standing = await get("session"); } catch { /* the form says so when it is used */ } }
  const tokens = Boolean(state.standing && state.standing.tokens);
  show($("token-form"), tokens && window.isSecureContext);
  show($("token-clear"), tokens && !window.isSecureContext);
  say($("sign-in-problem"), problem);
  show($("sign-in"), true);
  document.title = "Sign in – Sloth Runner";
}
$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  if (await signIn({ token })) look();
});
$("sign-out").addEventListener("click", async () => {
  try { await ask("session", { method: "DELETE" }); } catch { /* it ends by itself */ }
  keep("");
  state.standing = null;
  signedOut();
});

// ----------------------------------------------------------------------------------------------------------------- fleet

function route() {
  if (!state.standing || !state.standing.role) return;
  const found = /^#\/agent\/([0-9a-f]{32})$/.exec(location.hash);
  const id = found ? found[1] : null;
  if (id !== state.agent) { state.open.clear(); state.commands = []; }
  state.agent = id;
  show($("fleet"), !id); show($("agent"), Boolean(id));
  if (id) loadAgent(true); else { document.title = "Fleet – Sloth Runner"; loadFleet(); }
}
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#code=")) return start();
  if (location.hash !== "#main") route();
});

/** Only the latest request counts. */
let fleetTurn = 0;
async function loadFleet() {
  const turn = ++fleetTurn, wish = state.fleet;
  const query = new URLSearchParams({ status: wish.status, q: wish.q, sort: wish.sort, offset: wish.offset, limit: state.limit });
  if (Object.keys(wish.labels).length) query.set("labels", JSON.stringify(wish.labels));
  try {
    const page = await get("fleet?" + query);
    if (turn !== fleetTurn) return;
    state.skew = page.now - Date.now();
    if (page.matching && page.offset >= page.matching) { wish.offset = 0; return loadFleet(); }
    say($("fleet-problem"), "");
    counts(page.counts); labels(page.labels); chosen(); rows(page);
  } catch (error) {
    if (turn === fleetTurn) say($("fleet-problem"), cause(error));
  }
}
function counts(found) {
  const all = found.active + found.inactive + found.stopped;
  const entries = [["", all, "All agents"], ["Active", found.active, "Active"], ["Inactive", found.inactive, "Inactive"], ["Stopped", found.stopped, "Stopped"]];
  keepFocus($("counts"), () => entries.map(([status, number, text]) => el("button", {
    type: "button", "data-key": "status " + status, "aria-pressed": String(state.fleet.status === status), class: status,
    onclick: () => choose({ status }),
  }, el("b", {}, count(number)), status ? mark(status, text) : el("span", {}, text))));
}
function labels(groups) {
  keepFocus($("labels"), () => groups.map((group) => el("div", { role: "group", "aria-label": "Label " + group.key },
    el("h3", { class: "theirs" }, group.key),
    group.values.map((value) => {
      const all = value.active + value.inactive + value.stopped;
      const on = state.fleet.labels[group.key] === value.value;
      const gone = value.inactive ? el("span", { class: "gone" }, " ▲ " + count(value.inactive), el("span", { class: "sr" }, " inactive")) : null;
      return el("button", {
        type: "button", "data-key": "label " + group.key + " " + value.value, "aria-pressed": String(on),
        onclick: () => {
          const chosen = { ...state.fleet.labels };
          if (on) delete chosen[group.key]; else chosen[group.key] = value.value;
          choose({ labels: chosen });
        },
      }, theirs(value.value || "(empty)"), " " + count(all), gone);
    }),
    group.more ? el("span", { class: "note" }, "and more") : null)));
}
function chosen() {
  const pairs = Object.entries(state.fleet.labels);
  show($("chosen"), pairs.length > 0);
  keepFocus($("chosen"), () => ["Only with ", ...pairs.map(([name, value]) => el("button", {
    type: "button", "data-key": name, "aria-label": "Remove the label " + name + "=" + value,
    onclick: () => { const rest = { ...state.fleet.labels }; delete rest[name]; choose({ labels: rest }); },
  }, theirs(name + "=" + value), " ×"))]);
}
/** Replaces what is in a node; the button that had the focus has it still. */
function keepFocus(node, make) {
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  node.replaceChildren(...make());
  if (focused === null || focused === undefined) return;
  for (const one of node.querySelectorAll("[data-key]")) if (one.dataset.key === focused) one.focus();
}
function choose(change) {
  Object.assign(state.fleet, { offset: 0 }, change);
  loadFleet();
}
function rows(page) {
  const body = $("agents").tBodies[0];
  keepFocus(body, () => page.rows.length ? page.rows.map((row) => {
    const tags = Object.entries(row.labels).map(([name, value]) => el("span", { class: "theirs" }, value ? name + "=" + value : name));
    return el("tr", {},
      el("th", { scope: "row" }, el("a", { href: "#/agent/" + row.id, class: "theirs", "data-key": row.id }, row.name)),
      el("td", {}, mark(row.status), row.reason ? el("span", { class: "note theirs" }, row.reason) : null),
      el("td", {}, when(row.since)), el("td", {}, when(row.last_heartbeat)),
      el("td", { class: "mono theirs" }, row.address), el("td", {}, el("div", { class: "tags" }, tags)));
  }) : [el("tr", {}, el("td", { colspan: 6, class: "empty" }, empty()))]);
  const last = page.offset + page.rows.length;
  const text = page.matching ? count(page.offset + 1) + "–" + count(last) + " of " + count(page.matching) : "No agents";
  if ($("range").textContent !== text) $("range").textContent = text;
  $("before").disabled = page.offset === 0;
  $("after").disabled = last >= page.matching;
}
function empty() {
  const wish = state.fleet;
  return wish.q || wish.status || Object.keys(wish.labels).length ? "No agent is like that." : "No agent has registered yet: sloth-runner agent start --name NAME starts one.";
}
$("search").addEventListener("submit", (event) => event.preventDefault());
let typing = 0;
$("q").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => choose({ q: $("q").value }), 200); });
$("sort").addEventListener("change", () => choose({ sort: $("sort").value }));
$("before").addEventListener("click", () => turn(-1));
$("after").addEventListener("click", () => turn(1));
function turn(by) {
  state.fleet.offset = Math.max(0, state.fleet.offset + by * state.limit);
  loadFleet();
  $("agents").scrollIntoView({ block: "start" });
}

// ------------------------------------------------------------------------------------------------------------- one agent

async function loadAgent(fresh) {
  const id = state.agent;
  if (fresh) { show($("agent-body"), false); $("agent-title").textContent = ""; $("agent-mark").replaceChildren(); }
  try {
    const [one, commands] = await Promise.all([get("agents/" + id), get("agents/" + id + "/commands")]);
    if (state.agent !== id) return;
    state.skew = one.now - Date.now();
    say($("agent-problem"), "");
    show($("agent-body"), true);
    document.title = one.agent.name + " – Sloth Runner";
    $("agent-title").textContent = one.agent.name;
    $("agent-mark").replaceChildren(mark(one.agent.status), one.agent.reason ? " " + one.agent.reason + ", " : " ", when(one.agent.since));
    $("advice").textContent = one.explain.advice;
    day(one.explain.sessions); facts(one); sessions(one.explain.sessions);
    list("told", one.explain.told.slice(0, 20).map(toldLine)); list("away", one.explain.attempts.slice(0, 20).map(awayLine));
    newest(commands);
    if (fresh) $("agent-title").focus();
  } catch (error) {
    if (state.agent !== id) return;
    say($("agent-problem"), cause(error));
  }
}
function list(id, items) {
  show($(id + "-section"), items.length > 0);
  $(id).replaceChildren(...items);
}
function toldLine(told) {
  const lasted = duration(told.duration * 1000), detail = told.detail ? " (" + told.detail + ")" : "";
  const text = told.kind === "session" ? "Session " + told.epoch + " with " + told.master + " ended after " + lasted + ": " + told.reason + detail
    : told.kind === "attempts" ? told.attempts + " attempts at " + told.master + " failed over " + lasted + ": " + told.reason + detail
    : told.kind === "start" ? (told.reason === "rebooted" ? "It started with its machine" : "It started") + detail
    : told.kind + ": " + told.reason + detail;
  return el("li", {}, clock(told.time), " ", theirs(text));
}
function awayLine(away) {
  const known = away.host || away.address; // not where events alone tell of it, one a minute at most
  const whom = known ? away.name + " (id " + away.agent_id.slice(0, 8) + "…) on host " + away.host + " at " + away.address : away.name;
  const text = whom + ": " + away.reason + ": " + away.message;
  return el("li", {}, when(away.last), (known ? ", " : ", at least ") + count(away.count) + " in all: ", theirs(text));
}
function facts(one) {
  const { agent, explain } = one, node = agent.node;
  const skew = explain.clock_skew;
  const lines = [
    ["Id", el("span", { class: "mono theirs" }, agent.id)], ["Host", agent.host && theirs(agent.host)], ["Address", agent.address && theirs(agent.address)], ["Version", agent.version && theirs(agent.version)],
    ["Detail", agent.detail && theirs(agent.detail)],
    ["Last heartbeat", when(agent.last_heartbeat)],
    ["Clock", skew === null ? null : Math.abs(skew) < 1 ? "as the master’s, within a second" : duration(Math.abs(skew) * 1000) + (skew > 0 ? " ahead of" : " behind") + " the master’s"],
    ["Unfinished commands", String(explain.commands_in_all)],
    ["Certificate", explain.certificate_expires && el("span", {}, "until " + new Date(explain.certificate_expires).toLocaleString())],
    ["Up for", node && duration(node.uptime * 1000)], ["Load", node && node.load_1m.toFixed(2)],
    ["Memory available", node && size(node.memory_available) + " of " + size(node.memory_total)],
    ["Disk free", node && size(node.disk_free) + " of " + size(node.disk_total)],
    ["Labels", Object.keys(agent.labels).length ? el("span", { class: "tags" }, Object.entries(agent.labels).map(([name, value]) => theirs(name + "=" + value))) : null],
  ];
  $("facts").replaceChildren(...lines.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
function sessions(all) {
  const shown = all.slice(0, SESSIONS_MAX);
  $("sessions").tBodies[0].replaceChildren(...shown.map((one) => {
    const end = one.ended ? Date.parse(one.ended) : now();
    return el("tr", {}, el("td", { class: "number" }, String(one.epoch)), el("td", {}, clock(one.started)),
      el("td", {}, duration(end - Date.parse(one.started)) + (one.ended ? "" : ", goes on")), el("td", {}, one.closed_by || ""), el("td", { class: "theirs" }, one.reason || ""));
  }), ...(shown.length ? [] : [el("tr", {}, el("td", { colspan: 5, class: "empty" }, "No session is on record."))]));
  say($("sessions-more"), all.length > shown.length ? "The latest " + shown.length + " of " + all.length + ": sloth-runner agent explain shows all." : "");
}

/** Ends that nobody wanted. */
const LEFT = ["shutdown", "master_shutdown", "stopped"];
const isLoss = (one) => one.ended && one.closed_by !== "operator" && !LEFT.includes(one.reason);

/** When it was connected: what is filled is a session, a triangle a loss. */
function day(all) {
  const end = now(), begin = end - DAY_MS, W = 960, H = 62;
  const x = (ms) => Math.max(0, Math.min(W, (ms - begin) / DAY_MS * W));
  const seen = all.map((one) => ({ one, from: Date.parse(one.started), to: one.ended ? Date.parse(one.ended) : end })).filter((s) => s.to > begin);
  const covered = seen.reduce((sum, s) => sum + Math.max(0, s.to - Math.max(s.from, begin)), 0);
  const losses = seen.filter((s) => isLoss(s.one));
  const share = Math.min(100, covered / DAY_MS * 100);
  const text = "Connected for " + (share > 99.9 && share < 100 ? "99.9" : share.toFixed(share < 99 ? 0 : 1)) + " % of the last 24 hours, in " + seen.length + (seen.length === 1 ? " session" : " sessions") + "; " + (losses.length === 1 ? "1 loss" : losses.length + " losses") + ".";
  const picture = svg("svg", { viewBox: `-2 0 ${W + 4} ${H}`, role: "img", "aria-label": text });
  const stripes = svg("pattern", { id: "stripes", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "pattern", "stroke-width": 2 }));
  picture.append(svg("defs", {}, stripes), svg("rect", { x: 0, y: 14, width: W, height: 26, rx: 3, class: "none" }), svg("rect", { x: 0, y: 14, width: W, height: 26, rx: 3, fill: "url(#stripes)" }));
  for (const s of seen) {
    const tip = clock(s.one.started).textContent + ", " + duration(s.to - s.from) + (s.one.reason ? ": " + s.one.reason : "");
    picture.append(svg("rect", { x: x(s.from).toFixed(1), y: 14, width: Math.max(1.5, x(s.to) - x(s.from)).toFixed(1), height: 26, class: "up" }, svg("title", {}, tip)));
  }
  for (const s of losses) {
    const at = x(s.to).toFixed(1);
    picture.append(svg("path", { d: `M${at} 11l5-9h-10Z`, class: "lost" }, svg("title", {}, "Lost at " + clock(s.one.ended).textContent + ": " + s.one.reason)));
  }
  for (let hours = 0; hours <= 24; hours += 6) {
    const at = W - hours / 24 * W, anchor = hours === 0 ? "end" : hours === 24 ? "start" : "middle";
    picture.append(svg("line", { x1: at, x2: at, y1: 40, y2: 45, class: "axis" }), svg("text", { x: at, y: 58, "text-anchor": anchor }, hours ? hours + " h ago" : "now"));
  }
  const key = (draw, text) => el("span", {}, svg("svg", { viewBox: "0 0 14 12", "aria-hidden": "true" }, draw), text);
  $("day").replaceChildren(el("p", {}, text), picture, el("p", { class: "legend" },
    key(svg("rect", { width: 14, height: 12, class: "up" }), "connected"),
    key([svg("rect", { width: 14, height: 12, class: "none" }), svg("rect", { width: 14, height: 12, fill: "url(#stripes)" })], "not connected, or not on record"),
    key(svg("path", { d: "M7 11l5-9h-10Z", class: "lost" }), "lost")));
}

// -------------------------------------------------------------------------------------------------- commands and output

function newest(page) {
  const fresh = new Map(page.rows.map((row) => [row.id, row]));
  // Those that were asked for before stay below the newest ones.
  const older = state.commands.filter((row) => !fresh.has(row.id) && page.rows.length && row.created <= page.rows[page.rows.length - 1].created);
  state.commands = [...page.rows, ...older];
  if (!older.length) show($("older"), page.more);
  commands();
}
function commands() {
  const body = $("commands").tBodies[0], kept = new Map([...body.children].map((row) => [row.dataset.id + row.className, row]));
  keepFocus(body, () => state.commands.length ? state.commands.flatMap((row) => {
    const open = state.open.get(row.id);
    const head = el("tr", { "data-id": row.id },
      el("td", {}, el("span", { class: "line theirs" }, row.line)), el("td", {}, outcome(row)), el("td", {}, when(row.created)),
      el("td", {}, row.started ? duration((row.finished ? Date.parse(row.finished) : now()) - Date.parse(row.started)) : ""),
      el("td", { class: "number" }, size(row.output_bytes)),
      el("td", {}, el("button", { type: "button", "data-key": row.id, "aria-expanded": String(Boolean(open)), "aria-label": "Output of " + row.line.slice(0, 80), onclick: () => toggle(row.id) }, open ? "Hide" : "Output")));
    return open ? [head, kept.get(row.id + "opened") || open.row] : [head];
  }) : [el("tr", {}, el("td", { colspan: 6, class: "empty" }, "No command is on record."))]);
}
function outcome(row) {
  const word = !row.outcome ? row.cancelling ? "cancelling" : row.state === "accepted" ? row.started ? "running" : "accepted, not known to have started" : row.state
    : row.outcome === "exited" ? (row.code === 0 ? "exited 0" : "exited " + row.code) : row.outcome === "signaled" ? "signal " + row.signal : row.outcome.replace("_", " ");
  const like = !row.outcome ? "" : row.outcome === "exited" && row.code === 0 ? "Active" : "Inactive";
  const note = row.reason ? el("span", { class: "note theirs" }, row.reason) : null;
  return el("span", {}, mark(like, word), note);
}
function toggle(id) {
  if (state.open.delete(id)) return commands();
  const pre = el("pre", { tabindex: "0", role: "region", "aria-label": "Output" }), note = el("p", { class: "note", role: "status" }, "…");
  const row = el("tr", { class: "opened", "data-id": id }, el("td", { colspan: 6 }, el("div", { class: "output" }, note, pre)));
  state.open.set(id, { row, pre, note, next: null, over: false, length: 0 });
  commands();
  more(id);
}
/** Terminals would act on these; here they only disturb. */
const plain = (text) => text.replace(/\u001b\[[0-?]*[ -\/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, "").replace(/\r\n?/g, "\n");
async function more(id) {
  const open = state.open.get(id);
  if (!open || open.over || open.busy) return;
  open.busy = true;
  try {
    const part = await get("commands/" + encodeURIComponent(id) + "/output" + (open.next === null ? "" : "?from=" + open.next));
    const bottom = open.pre.scrollTop + open.pre.clientHeight >= open.pre.scrollHeight - 8;
    if (open.next === null) open.first = part.from;
    for (const piece of part.pieces) {
      const text = piece.gap ? "[" + count(piece.gap) + " bytes were dropped]\n" : plain(piece.text);
      open.pre.append(el("span", { class: piece.gap ? "gap" : piece.stream }, text));
      open.length += text.length;
    }
    while (open.length > TEXT_MAX && open.pre.childNodes.length > 1) { open.length -= open.pre.firstChild.textContent.length; open.pre.firstChild.remove(); open.cut = true; }
    open.next = part.next;
    open.over = Boolean(part.command.outcome) && part.next >= part.end;
    open.note.textContent = part.end === 0 ? (open.over ? "It wrote nothing." : "Nothing yet.")
      : (open.first || open.cut ? "The end of " + size(part.end) + ": sloth-runner command logs " + id + " gives all." : size(part.end) + " in all.") + (open.over ? "" : " It goes on.");
    if (bottom) open.pre.scrollTop = open.pre.scrollHeight;
    if (part.next < part.end) setTimeout(() => more(id), 0);
  } catch (error) {
    open.note.textContent = cause(error);
  }
  open.busy = false;
}
$("older").addEventListener("click", async () => {
  const id = state.agent, last = state.commands[state.commands.length - 1];
  try {
    const page = await get("agents/" + id + "/commands?before=" + encodeURIComponent(last.id));
    if (state.agent !== id) return;
    state.commands.push(...page.rows);
    show($("older"), page.more && state.commands.length < 500);
    commands();
  } catch (error) { say($("agent-problem"), cause(error)); }
});

// ----------------------------------------------------------------------------------------------------------- live events

const LIKE = { "agent.connected": "Active", "agent.lost": "Inactive", "agent.replaced": "Inactive", "agent.rejected": "Inactive", "command.output_failed": "Inactive", "master.started": "Stopped", "agent.stopped": "Stopped", "agent.deleted": "Stopped" };

function connection(live, text) {
  const node = $("link");
  node.className = "link " + (live ? "live" : "broken");
  node.replaceChildren(shape(live ? "Active" : "Inactive"), text);
}
/** Follows for as long as somebody is signed in; connects anew by itself. */
async function follow() {
  if (state.stream) return;
  const mine = state.stream = new AbortController();
  for (let failures = 0; state.stream === mine;) {
    const one = new AbortController();
    const stop = () => one.abort();
    mine.signal.addEventListener("abort", stop);
    let silence = 0;
    const heard = () => { clearTimeout(silence); silence = setTimeout(stop, SILENCE_MS); };
    try {
      heard();
      const response = await ask("events?after=" + state.lastSeq, { signal: one.signal });
      connection(true, "Live");
      refresh();
      let rest = "";
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        heard(); failures = 0;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        const events = lines.map((line) => JSON.parse(line)).filter((event) => event.seq);
        if (events.length) happened(events);
      }
    } catch { /* told below */ }
    clearTimeout(silence); stop();
    mine.signal.removeEventListener("abort", stop);
    if (state.stream !== mine) return;
    connection(false, "Not connected: trying again");
    const wait = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
    await new Promise((done) => setTimeout(done, wait * (0.8 + Math.random() * 0.4)));
  }
}
function happened(events) {
  const list = $("event-list"), first = state.lastSeq === 0;
  const fresh = events.filter((event) => event.seq > state.lastSeq);
  if (!fresh.length) return;
  // What was before the page was opened is not read out.
  list.setAttribute("aria-live", first ? "off" : "polite");
  for (const event of fresh.slice(-EVENTS_MAX)) {
    const link = event.agent_id && event.agent ? el("a", { class: "theirs", href: "#/agent/" + event.agent_id }, event.agent) : null;
    list.prepend(el("li", { class: first ? "" : "new", "data-kind": event.kind },
      el("div", { class: "what" }, mark(LIKE[event.kind] || "", event.kind), clock(event.time)),
      el("div", {}, link, link ? " " : "", event.reason ? theirs("(" + event.reason + ") ") : "", el("span", { class: "quiet theirs" }, event.message.slice(0, 400)))));
  }
  while (list.children.length > EVENTS_MAX) list.lastChild.remove();
  state.lastSeq = fresh[fresh.length - 1].seq;
  if (!first) soon();
}
function soon() {
  if (!state.soon) state.soon = setTimeout(refresh, SOON_MS);
}
function refresh() {
  clearTimeout(state.soon);
  state.soon = 0;
  if (!state.standing || !state.standing.role || document.hidden) return;
  if (state.agent) loadAgent(false); else loadFleet();
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(refresh, REFRESH_MS);
setInterval(() => {
  for (const node of document.querySelectorAll("time:not(.fixed)")) {
    const text = ago(Date.parse(node.dateTime));
    if (node.textContent !== text) node.textContent = text;
  }
}, 1000);
setInterval(() => { for (const id of state.open.keys()) more(id); }, 2000);

start();

"use strict";
// What the server is doing: asked of it every two seconds, drawn as plots of the last ten minutes.
// All text goes into the page as text: much of it was chosen by strangers.

const INTERVAL = 2000; // milliseconds between two questions
const PATIENCE = 10000; // milliseconds until a question is given up
const SPAN = 600; // seconds that a plot shows
const SLOW = 30000; // milliseconds after which certificates are asked for again
const MOST_ROWS = 8;

let samples = [];
let status = null;
let certificates = [];
let certificateCount = 0;
let failures = [];
let failureCount = -1;
let asked = -Infinity; // when certificates were, in the page's milliseconds
let answered = null; // when the server last answered

// Small things

const $ = (id) => document.getElementById(id);

function element(name, classes, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(id, text) {
  // Nothing is touched that stays the same: a screen reader would say it again.
  if ($(id).textContent !== text) $(id).textContent = text;
}

const whole = (number) => Math.round(number).toLocaleString("en");

function few(number) {
  if (number === 0 || number >= 100) return whole(number);
  return number.toLocaleString("en", { maximumFractionDigits: number >= 10 ? 1 : 2 });
}

function scaled(number, units, step) {
  let unit = 0;
  while (number >= step && unit < units.length - 1) {
    number /= step;
    unit += 1;
  }
  return `${few(number)} ${units[unit]}`;
}

const bytes = (number) => scaled(number, ["B", "kB", "MB", "GB", "TB", "PB"], 1000);
const perSecond = (number) => `${few(number)}/s`;
const bytesPerSecond = (number) => `${bytes(number)}/s`;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 1) return `${few(seconds)} s`;
  return `${few(seconds * 1000)} ms`;
}

function counted(number, one, many) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}

function span(seconds) {
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60);
  if (days >= 2) return counted(days, "day", "days");
  if (hours >= 2) return counted(hours, "hour", "hours");
  if (minutes >= 2) return counted(minutes, "minute", "minutes");
  return counted(Math.floor(seconds), "second", "seconds");
}

function clock(moment) {
  return new Date(moment * 1000).toLocaleTimeString("en-GB");
}

function clockOrDay(moment) {
  const day = new Date(moment * 1000).toLocaleDateString("sv");
  return Date.now() / 1000 - moment < 43200 ? clock(moment) : `${day} ${clock(moment).slice(0, 5)}`;
}

const words = (cause) => cause.replaceAll("_", " ");
const sum = (counts) => Object.values(counts).reduce((one, other) => one + other, 0);

// What has happened

function before(seconds) {
  // The newest sample that is at least so old, or the oldest there is.
  const since = samples[samples.length - 1].moment - seconds;
  let found = samples[0];
  for (const sample of samples) {
    if (sample.moment > since) break;
    found = sample;
  }
  return found;
}

function grown(now, then) {
  const changes = {};
  for (const [name, number] of Object.entries(now)) {
    const change = number - (then[name] || 0);
    if (change > 0) changes[name] = change;
  }
  return changes;
}

function rates(of) {
  // Points of time and growth per second.
  const points = [];
  for (let at = 1; at < samples.length; at += 1) {
    const seconds = samples[at].moment - samples[at - 1].moment;
    if (seconds < 0.2) continue;
    points.push([samples[at].moment, Math.max(0, of(samples[at]) - of(samples[at - 1])) / seconds]);
  }
  return points;
}

const values = (of) => samples.filter((each) => of(each) !== null).map((each) => [each.moment, of(each)]);

// The plots

const LEFT = 68, RIGHT = 8, TOP = 8, BOTTOM = 22, HEIGHT = 168;

const PLOTS = [
  {
    id: "plot-connections", title: "Open connections", show: whole, least: 4, integers: true,
    series: [{ name: "open", look: "three", area: true, points: () => values((each) => each.connections) }],
  },
  {
    id: "plot-handshakes", title: "Handshakes per second", show: perSecond, least: 1,
    series: [
      { name: "done", look: "one", area: true, points: () => rates((each) => each.done) },
      { name: "failed", look: "failing", points: () => rates((each) => sum(each.failed)) },
    ],
  },
  {
    id: "plot-latency", title: "Handshake time", show: duration, least: 0.001,
    series: [
      { name: "half within", look: "two", points: () => values((each) => each.p50) },
      { name: "99 of 100 within", look: "two dashed", points: () => values((each) => each.p99) },
    ],
  },
  {
    id: "plot-traffic", title: "Traffic", show: bytesPerSecond, least: 1000,
    series: [
      { name: "in", look: "one", points: () => rates((each) => each.received) },
      { name: "out", look: "two", points: () => rates((each) => each.sent) },
    ],
  },
];

function niceTop(most, integers) {
  // A round number above all, so that its half is one too.
  const power = 10 ** Math.floor(Math.log10(most));
  for (const factor of [1, 2, 4, 6, 8, 10]) {
    const top = factor * power;
    if (top >= most && (!integers || top % 2 === 0)) return top;
  }
  return 10 * power;
}

function shownSpan() {
  // A server that is young has not much to show yet.
  const age = samples.length ? samples[samples.length - 1].moment - samples[0].moment : 0;
  return [60, 120, 300, SPAN].find((seconds) => age <= seconds + 4) || SPAN;
}

function path(points, x, y) {
  // A gap where nobody asked, or there was nothing to tell.
  let text = "";
  let last = -Infinity;
  for (const [moment, value] of points) {
    text += `${moment - last > 12 ? "M" : "L"}${x(moment).toFixed(1)} ${y(value).toFixed(1)}`;
    last = moment;
  }
  return text;
}

function draw(plot) {
  const figure = $(plot.id);
  if (!plot.svg) {
    plot.svg = drawn("svg", { role: "img" });
    plot.caption = element("figcaption", "", element("b", "", plot.title));
    for (const each of plot.series) {
      each.key = element("span", "");
      plot.caption.append(element("span", `key ${each.look}`, element("i", ""), `${each.name} `, each.key));
    }
    figure.append(plot.caption, plot.svg);
    plot.svg.addEventListener("pointermove", (event) => point(plot, event));
    plot.svg.addEventListener("pointerleave", () => { plot.at = null; $("tip").hidden = true; draw(plot); });
  }
  const width = Math.max(240, plot.svg.clientWidth || figure.clientWidth);
  const end = samples.length ? samples[samples.length - 1].moment : 0;
  const shown = shownSpan();
  const begin = end - shown;
  const all = plot.series.map((each) => each.points().filter(([moment]) => moment >= begin));
  const most = Math.max(plot.least, ...all.flat().map(([, value]) => value));
  const top = niceTop(most, plot.integers);
  const x = (moment) => LEFT + ((moment - begin) / shown) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const value of [0, top / 2, top]) {
    parts.push(drawn("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(drawn("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value ? plot.show(value) : "0"));
  }
  for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const ago = share * shown;
    const text = ago >= 120 ? `${few(ago / 60)} min ago` : `${whole(ago)} s ago`;
    parts.push(drawn("text", { x: x(end - ago), y: HEIGHT - 5, "text-anchor": anchor }, ago ? text : "now"));
  }
  plot.series.forEach((each, index) => {
    const points = all[index];
    const line = path(points, x, y);
    if (each.area && points.length > 1) {
      const [first, last] = [points[0], points[points.length - 1]];
      const edge = `M${x(first[0])} ${y(0)}${line.replaceAll("M", "L")}L${x(last[0])} ${y(0)}Z`;
      parts.push(drawn("path", { class: `area ${each.look}`, d: edge }));
    }
    parts.push(drawn("path", { class: `line ${each.look}`, d: line }));
    const newest = points.length && end - points[points.length - 1][0] < 12 ? points[points.length - 1][1] : null;
    each.key.textContent = newest === null ? "–" : plot.show(newest);
  });
  if (samples.length && !all.flat().length) {
    parts.push(drawn("text", { class: "empty", x: (LEFT + width) / 2, y: HEIGHT / 2 - 16, "text-anchor": "middle" },
      samples.length > 1 ? "none in this time" : "nothing yet"));
  }
  if (plot.at !== null && plot.at !== undefined) {
    parts.push(drawn("line", { class: "cross", x1: x(plot.at), x2: x(plot.at), y1: TOP, y2: HEIGHT - BOTTOM }));
    plot.series.forEach((each, index) => {
      const found = all[index].find(([moment]) => moment === plot.at);
      if (found) parts.push(drawn("circle", { class: `dot ${each.look}`, cx: x(found[0]), cy: y(found[1]), r: 4.5 }));
    });
  }
  plot.geometry = { width, begin, shown, all };
  plot.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  plot.svg.setAttribute("aria-label",
    `${plot.title}: ${plot.series.map((each) => `${each.name} ${each.key.textContent}`).join(", ")}`);
  plot.svg.replaceChildren(...parts);
}

function point(plot, event) {
  // The crosshair: what there was at the time below the pointer.
  const { width, begin, shown, all } = plot.geometry;
  const box = plot.svg.getBoundingClientRect();
  const moment = begin + ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * shown;
  const near = all.flat().map(([at]) => at).reduce(
    (best, at) => (best === null || Math.abs(at - moment) < Math.abs(best - moment) ? at : best), null);
  plot.at = near;
  const tip = $("tip");
  tip.hidden = near === null;
  if (near === null) return;
  tip.replaceChildren(element("p", "", clock(near)), ...plot.series.map((each, index) => {
    const found = all[index].find(([at]) => at === near);
    return element("p", "", `${each.name}: ${found ? plot.show(found[1]) : "–"}`);
  }));
  const left = event.clientX + 14 + tip.offsetWidth > innerWidth - 8 ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14;
  tip.style.left = `${Math.max(8, left)}px`;
  const below = event.clientY + 16 + tip.offsetHeight < innerHeight - 8;
  tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 10}px`;
  draw(plot);
}

// What is wrong

function certificateState(each) {
  if (each.days_left === null) return "bad";
  if (each.days_left <= 0) return "bad";
  const enough = Math.min(14, (each.lifetime_days || 90) / 4);
  if (each.days_left < Math.min(2, enough / 2)) return "bad";
  return each.days_left < enough || each.last_error ? "warn" : "good";
}

const nameOf = (each) => each.names[0] || each.source;

function daysLeft(days) {
  if (days === null) return "not loaded";
  if (days <= 0) return `expired ${span(-days * 86400)} ago`;
  return `${span(days * 86400)} left`;
}

function concerns() {
  // What a person has to know: how bad it is, and a sentence.
  const found = [];
  const state = {
    starting: "This server is starting: it is not ready yet.",
    leaving: "Another process serves in the place of this one, which ends with its last connection.",
    draining: "This server was told to end: it accepts no new connections.",
    stopping: "This server is about to end.",
  }[status.state];
  if (state) found.push(["warn", state]);
  else for (const each of status.obstacles) found.push(["bad", `This server is not ready: ${each}.`]);
  const then = before(60);
  const now = samples[samples.length - 1];
  const failed = grown(now.failed, then.failed);
  const [bad, good] = [sum(failed), now.done - then.done];
  if (bad >= 5 && bad >= 0.05 * (bad + good)) {
    const [cause] = Object.entries(failed).sort((one, other) => other[1] - one[1])[0];
    const share = `${whole(bad)} of ${counted(bad + good, "handshake", "handshakes")} failed in the last minute`;
    found.push([bad >= 0.25 * (bad + good) ? "bad" : "warn", `${share}, most of them for this cause: ${words(cause)}.`]);
  }
  for (const [limit, number] of Object.entries(grown(now.refused, then.refused))) {
    found.push(["warn", `${counted(number, "connection was", "connections were")} refused in the last minute: ${limit} has been reached.`]);
  }
  for (const each of certificates) {
    const state = certificateState(each);
    if (state === "good") continue;
    if (each.days_left !== null && each.days_left <= 0) found.push([state, `The certificate of ${nameOf(each)} has expired: clients refuse it.`]);
    else if (each.days_left === null) found.push([state, `There is no certificate of ${nameOf(each)}: ${each.last_error || "it is not loaded"}.`]);
    else if (each.last_error) found.push([state, `The certificate of ${nameOf(each)} was not loaded or renewed, ${daysLeft(each.days_left)}: ${each.last_error}.`]);
    else found.push([state, `The certificate of ${nameOf(each)} expires soon: ${daysLeft(each.days_left)}.`]);
  }
  return found.sort((one, other) => (one[0] === "bad" ? 0 : 1) - (other[0] === "bad" ? 0 : 1));
}

function showVerdict() {
  const found = concerns();
  const now = samples[samples.length - 1];
  const failed = sum(now.failed) - sum(before(60).failed);
  document.body.className = found.length ? found[0][0] : "good";
  const open = `${counted(now.connections, "connection", "connections")} open`;
  say("verdict", found.length ? found[0][1] : `All is well: ${open}, ${failed ? `${counted(failed, "handshake", "handshakes")} failed` : "no handshake failed"} in the last minute.`);
  document.title = `${found.length ? "!" : "✓"} bioconn: ${open}`;
  const rest = found.slice(1, 5).map(([state, text]) => element("li", state, text));
  if (found.length > 5) rest.push(element("li", "warn", `and ${counted(found.length - 5, "more", "more")}`));
  $("concerns").replaceChildren(...rest);
}

// The rest of the page

function showTiles() {
  const now = samples[samples.length - 1];
  const soon = before(10);
  const minute = before(60);
  const seconds = Math.max(1, now.moment - soon.moment);
  const failed = sum(now.failed) - sum(minute.failed);
  const { connections, handshakes } = status;
  say("open", whole(now.connections));
  say("open-note", `${whole(connections.handshake)} in the handshake, ${whole(connections.closing)} closing`);
  say("rate", perSecond((now.done - soon.done) / seconds));
  say("rate-note", handshakes.done ? `${whole((100 * handshakes.resumed) / handshakes.done)} % of all resumed` : "none yet");
  say("latency", duration(now.p50));
  say("latency-note", now.p99 === null ? "no handshake in 10 s" : `99 of 100 within ${duration(now.p99)}`);
  say("failed", whole(failed));
  $("failed").className = failed ? "alarm" : "";
  say("failed-note", `${whole(handshakes.failed)} in all, ${whole(handshakes.silent)} said nothing`);
  say("traffic", bytesPerSecond((now.sent - soon.sent + now.received - soon.received) / seconds));
  say("traffic-note", `${bytes(now.received)} in, ${bytes(now.sent)} out in all`);
}

function bar(state, what, much, share, ...more) {
  const fill = element("div", "");
  fill.style.width = `${Math.max(0, Math.min(100, 100 * share)).toFixed(1)}%`;
  return element("li", state, element("span", "what", what), element("span", "much", much),
    element("div", "track", fill), ...more);
}

function showCauses() {
  const now = samples[samples.length - 1];
  const recent = grown(now.failed, samples[0].failed);
  const all = Object.entries(now.failed).sort(
    (one, other) => (recent[other[0]] || 0) - (recent[one[0]] || 0) || other[1] - one[1]);
  const shown = all.slice(0, MOST_ROWS);
  const most = Math.max(1, ...shown.map(([cause]) => recent[cause] || 0));
  const age = Math.max(2, now.moment - samples[0].moment);
  say("causes-note", all.length ? `In the last ${span(age > SPAN - 20 ? SPAN : age)}, and in all since the start` : "");
  $("causes").replaceChildren(...shown.map(([cause, number]) => {
    const few = recent[cause] || 0;
    return bar("failing", words(cause), few === number ? whole(few) : `${whole(few)} (${whole(number)} in all)`, few / most);
  }));
  if (!all.length) $("causes").append(element("li", "nothing", "None has failed since the start."));
  if (all.length > shown.length) $("causes").append(element("li", "nothing", `and ${counted(all.length - shown.length, "more cause", "more causes")}`));
}

function showCertificates() {
  const shown = certificates.slice(0, MOST_ROWS);
  say("certificates-note", certificateCount ? `${counted(certificateCount, "certificate", "certificates")}, the first to expire in front` : "");
  $("certificates").replaceChildren(...shown.map((each) => {
    const others = each.names.length + each.more_names - 1;
    const renewal = each.next_renewal ? `, renewal ${each.next_renewal.slice(0, 10)}` : "";
    const end = each.not_after ? `expires ${each.not_after.slice(0, 10)}${renewal}` : "";
    return bar(certificateState(each), nameOf(each) + (others > 0 ? ` and ${others} more` : ""), daysLeft(each.days_left),
      (each.days_left || 0) / (each.lifetime_days || 1),
      element("span", "more", [each.key, end, each.source].filter(Boolean).join(" · ")),
      each.last_error ? element("span", "more error", each.last_error) : null);
  }));
  if (!shown.length) $("certificates").append(element("li", "nothing", "This server has none."));
}

const unfolded = new Map(); // what is open, by the kind of failure: it stays as it is while it is read

function traceOf(failure) {
  const text = element("pre", "trace", "Asking the server…");
  const when = clockOrDay(Date.parse(failure.when) / 1000);
  const made = element("details", "", element("summary", "", `${when} ${failure.peer}`), text);
  made.addEventListener("toggle", async () => {
    if (!made.open || made.dataset.asked) return;
    made.dataset.asked = "yes";
    try {
      const answer = await fetch(`/trace?of=${failure.trace}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      text.textContent = answer.ok ? await answer.text() : "It is kept no more.";
    } catch {
      text.textContent = "The server does not answer.";
      delete made.dataset.asked;
    }
  });
  return made;
}

function unfolding(kind, traced) {
  const before = unfolded.get(kind);
  if (before?.open) return before;
  if (!traced.length) return null;
  const made = element("details", "traces", element("summary", "", counted(traced.length, "trace", "traces")), null);
  // They are made when somebody wants them: there may be two hundred.
  made.addEventListener("toggle", () => {
    if (made.open && made.children.length === 1) made.append(...traced.map(traceOf));
  });
  unfolded.set(kind, made);
  return made;
}

function showFailures() {
  // One of each cause, the newest: a hundred of one kind would hide the one of another.
  const kinds = new Map();
  for (const each of failures) {
    const kind = `${each.cause} ${each.listener}`;
    if (!kinds.has(kind)) kinds.set(kind, []);
    kinds.get(kind).push(each);
  }
  $("failures").replaceChildren(...[...kinds.values()].slice(0, MOST_ROWS).map((alike) => {
    const [each] = alike;
    const time = element("time", "", clockOrDay(Date.parse(each.when) / 1000));
    time.dateTime = each.when;
    const peers = new Set(alike.map((one) => one.peer.replace(/:\d+$/, ""))).size;
    const others = alike.length > 1
      ? `${whole(alike.length)} such of the last ${whole(failures.length)} that failed, from ${counted(peers, "address", "addresses")}` : "";
    return element("li", "", time, element("div", "",
      element("p", "", `${each.sentence}.`),
      element("p", "advice", each.advice ? `${each.advice}.` : ""),
      element("p", "note", [each.listener, others].filter(Boolean).join(" · ")),
      unfolding(`${each.cause} ${each.listener}`, alike.filter((one) => one.trace !== null))));
  }));
  if (!failures.length) $("failures").append(element("li", "nothing", "None has failed since the start."));
}

function showListeners() {
  $("listeners").replaceChildren(...status.listeners.map((each) => {
    const where = [each.address, each.target].filter(Boolean).join(" · ");
    const name = element("th", "", each.name, where ? element("span", "note", where) : null);
    name.scope = "row";
    const { connections, handshakes } = each;
    name.setAttribute("role", "rowheader");
    const cells = {
      Open: whole(connections.handshake + connections.open + connections.closing),
      Done: whole(handshakes.done),
      Failed: whole(handshakes.failed),
      Refused: whole(sum(each.refused)),
      In: bytes(each.bytes.received),
      Out: bytes(each.bytes.sent),
    };
    const row = element("tr", "", name, ...Object.entries(cells).map(([label, text]) => {
      const cell = element("td", "", text);
      cell.setAttribute("role", "cell");
      cell.dataset.label = label;
      return cell;
    }));
    row.setAttribute("role", "row");
    return row;
  }));
}

function show() {
  const others = status.processes.length - 1;
  const worker = status.worker === null ? "" : `, worker ${status.worker}${others ? ` and ${others} more` : ""}`;
  say("process", `${status.version}, process ${status.pid}${worker}, up for ${span(status.uptime)}`);
  say("updated", `${clock(samples[samples.length - 1].moment)}`);
  say("minutes", `The last ${span(shownSpan()).replace("60 seconds", "minute")}`);
  showVerdict();
  showTiles();
  showCauses();
  showListeners();
  PLOTS.forEach(draw);
}

// Asking

class Unanswered extends Error {}

async function ask(where) {
  let answer;
  try {
    answer = await fetch(where, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (answer.ok) return await answer.json();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Unanswered(late ? `No answer within ${PATIENCE / 1000} seconds` : "It cannot be reached");
  }
  throw new Unanswered(`${where} was answered with ${answer.status}`);
}

async function askForHistory() {
  samples = (await ask("/history")).samples;
}

async function turn() {
  const told = await ask("/status");
  const last = samples.length ? samples[samples.length - 1].moment : 0;
  if (status === null || status.started !== told.started || status.pid !== told.pid || told.sample.moment - last > 10) {
    // It is another process, or this page has slept.
    await askForHistory();
    failureCount = -1;
    asked = -Infinity;
  }
  status = told;
  if (!samples.length || told.sample.moment > samples[samples.length - 1].moment) samples.push(told.sample);
  while (samples.length > 1 && samples[0].moment < told.sample.moment - SPAN) samples.shift();
  if (performance.now() - asked > SLOW) {
    const found = await ask("/certificates");
    [certificates, certificateCount] = [found.certificates, found.total];
    asked = performance.now();
    showCertificates();
  }
  if (told.handshakes.failed !== failureCount) {
    failures = (await ask("/failures")).failures;
    failureCount = told.handshakes.failed;
    showFailures();
  }
  answered = new Date();
  show();
}

async function live() {
  try {
    if (!document.hidden) await turn();
  } catch (error) {
    const unanswered = error instanceof Unanswered;
    document.body.className = "lost";
    document.title = "! bioconn: no answer";
    say("verdict", unanswered ? "The server does not answer." : "This page has failed.");
    say("updated", answered === null ? "" : `what is shown is of ${answered.toLocaleTimeString("en-GB")}`);
    $("concerns").replaceChildren(element("li", "bad", `${error.message}. Asking again every two seconds.`));
  }
  setTimeout(live, INTERVAL);
}

let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => { if (samples.length) PLOTS.forEach(draw); });
});
live();

// The page's data, and how it is written: nothing here draws.
"use strict";

const PFS_DAY = 8.64e19;
const KIND = { metered: 0, estimated: 1, overclaiming: 2 };

async function unpack(text) {
  const letters = atob(text.trim()), packed = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at += 1) packed[at] = letters.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function threeDigits(value) {
  if (Math.abs(value) >= 999.5) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
}

function withPrefix(value, unit) {
  const prefixes = ["", "K", "M", "G", "T", "P", "E", "Z", "Y"];
  let step = 0;
  while (Math.abs(value) >= 999.5 && step < prefixes.length - 1) {
    value /= 1000;
    step += 1;
  }
  return `${threeDigits(value)} ${prefixes[step]}${unit}`;
}

function pfsDays(flops) {
  const days = flops / PFS_DAY;
  if (days === 0 || Math.abs(days) >= 1e-3) return threeDigits(days);
  return days.toExponential(1).replace("e-0", "e-");
}

const UNKNOWN = "unknown";
const known = (value) => value !== null && value !== undefined;
const compute = (flops) =>
  known(flops) ? `${withPrefix(flops, "FLOP")} = ${pfsDays(flops)} pfs-days` : UNKNOWN;
const share = (value) => (known(value) ? `${threeDigits(100 * value)} %` : UNKNOWN);
const lasted = (seconds) => {
  if (!known(seconds)) return UNKNOWN;
  if (seconds < 120) return `${threeDigits(seconds)} s`;
  return seconds < 7200 ? `${threeDigits(seconds / 60)} min` : `${hours(seconds)} h`;
};
const hours = (seconds) => (known(seconds) ? threeDigits(seconds / 3600) : UNKNOWN);
const whole = (value) => (known(value) ? value.toLocaleString("en") : UNKNOWN);

// ISO 8601 in UTC without its end, the form that plotly takes for a date.
const day = (milliseconds) => new Date(milliseconds).toISOString().slice(0, 19).replace("T", " ");

// The same of many moments: runs share their days, and every day its minutes.
function daysOf(moments) {
  const days = new Map(), minutes = new Map(), two = (n) => String(n).padStart(2, "0");
  const kept = (texts, key, write) => texts.get(key) ?? texts.set(key, write(key)).get(key);
  return moments.map((moment) => {
    const date = Math.floor(moment / 86400), second = moment - 86400 * date;
    const minute = Math.floor(second / 60);
    return (
      kept(days, date, (n) => day(86400000 * n).slice(0, 11)) +
      kept(minutes, minute, (n) => `${two(Math.floor(n / 60))}:${two(n % 60)}:`) +
      two(second - 60 * minute)
    );
  });
}

function textOf(runs, column, run) {
  const coded = runs.texts[column];
  return coded.words[coded.at[run]];
}

// Only a web page is opened, whatever a tracker says a run's address is.
function pageOf(runs, run) {
  const start = runs.pages.words[runs.pages.at[run]];
  if (!start) return null;
  try {
    const url = new URL(start + runs.page[run]);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

function factsOf(runs, run) {
  const text = (column) => textOf(runs, column, run) || UNKNOWN;
  const kind = runs.kind[run];
  const count = known(runs.devices[run]) ? `${whole(runs.devices[run])} x ` : "";
  const cause = text("cause");
  const verdict = text("verdict") + (cause === "none" || cause === UNKNOWN ? "" : ` (${cause})`);
  const seconds = runs.seconds[run];
  const facts = [
    ["run compute", kind === KIND.estimated ? "no method 1" : compute(runs.flops[run])],
    ["spent", compute(runs.spent[run])],
    ["method 2, GPU time", compute(runs.gpu[run])],
    ["method 2 / method 1", known(runs.ratio[run]) ? threeDigits(runs.ratio[run]) : UNKNOWN],
    ["verdict", verdict],
    ["MFU", share(runs.mfu[run])],
    ["user", text("user")],
    ["project", text("project")],
    ["team", text("team")],
    ["started", `${day(1000 * runs.started[run]).slice(0, 16)} UTC`],
    ["start to end", lasted(seconds)],
    ["device", count + text("device")],
    ["device-hours", hours(runs.deviceSeconds[run])],
    ["steps", `${whole(runs.steps[run])} in ${whole(runs.segments[run])} ${runs.segments[run] === 1 ? "launch" : "launches"}`],
    ["status", text("status")],
    ["source", text("source")],
  ];
  const lineage = runs.lineageOf.get(run);
  if (known(lineage)) facts.splice(2, 0, ["lineage, with its base", compute(lineage)]);
  if (kind === KIND.estimated) facts.unshift(["estimated", "method 2 alone"]);
  if (kind === KIND.overclaiming) {
    facts.unshift(["overclaims", "more than devices x time x peak: in no sum, not in the fit"]);
  }
  if (runs.flaggedRuns.has(run)) facts.unshift(["flagged", "a count or a peak is suspect"]);
  return facts;
}

// Text from outside only ever becomes text: no markup is made of strings on this page.
function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (known(text)) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function factList(facts) {
  const list = element("dl");
  for (const [name, value] of facts) list.append(element("dt", name), element("dd", value));
  return list;
}

// Keeps a round's answer until the server says that it is saved: through a lost connection, a reload, a closed tab.
// Without JavaScript the form is sent as any form is.
"use strict";

const form = document.getElementById("round");
const state = document.getElementById("state");
const place = `mitune-survey:${location.pathname}`;
const boxes = [...form.querySelectorAll("[name=chosen]")];
const waits = [1, 2, 4, 8, 15];
let turn = 0;
let tries = 0;
let timer = null;
let sending = false;
let changed = false; // since it was last sent

// A browser may forbid the store: then a page keeps its answer only as long as it is open.
const store = {
  get(key) {
    try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
  },
  set(key, value) {
    try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* forbidden or full */ }
  },
  remove(key) {
    try { localStorage.removeItem(key); } catch { /* forbidden */ }
  },
};

const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
const pictures = (values) => values.filter((value) => value !== "none");
const answered = () => (form.dataset.answered === "-" ? null : form.dataset.answered.split(" ").filter(Boolean));
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const say = (text) => { if (state.textContent !== text) state.textContent = text; };

// The time that the page was looked at: not while it lies behind another.
let looked = 0;
let since = document.hidden ? null : performance.now();
const seconds = () => (looked + (since === null ? 0 : performance.now() - since)) / 1000;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && since !== null) {
    looked += performance.now() - since;
    since = null;
  } else if (!document.hidden && since === null) {
    since = performance.now();
  }
});

function keep(isSent) {
  store.set(place, { chosen: chosen(), before: answered(), sent: isSent });
}

function later() {
  say(form.dataset.waiting);
  clearTimeout(timer);
  timer = setTimeout(send, 1000 * waits[Math.min(tries++, waits.length - 1)]);
}

async function send() {
  clearTimeout(timer);
  if (sending) return;
  sending = true;
  const mine = { turn, chosen: chosen() };
  const stop = new AbortController();
  const limit = setTimeout(() => stop.abort(), 20000);
  let response = null;
  let said = {};
  try {
    response = await fetch(form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { Accept: "application/json" },
      signal: stop.signal,
    });
    said = await response.json();
  } catch {
    if (response?.ok) response = null; // its end was lost: the same again is the same reply
  }
  clearTimeout(limit);
  sending = false;
  if (response?.ok) arrived(mine, said.next);
  else if (response === null || response.status === 429 || response.status >= 500) later();
  else refused(response.status, said.error);
}

function arrived(mine, next) {
  if (turn === mine.turn && !changed) {
    store.remove(place);
    store.set("mitune-survey:saved", { place, at: Date.now() });
    location.assign(next);
    return;
  }
  form.dataset.answered = pictures(mine.chosen).join(" "); // but another choice was made meanwhile
  keep(!changed);
  if (changed) say("");
  else send();
}

function refused(status, words) {
  store.remove(place);
  say(words ?? "");
  if (status === 409) location.assign(location.pathname.replace(/\/\d+$/, ""));
}

function submit() {
  form.elements.seconds.value = seconds().toFixed(3);
  form.elements.turn.value = String((turn += 1));
  tries = 0;
  changed = false;
  keep(true);
  say(form.dataset.saving);
  send();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
form.addEventListener("change", () => {
  changed = true;
  clearTimeout(timer); // what is waiting to be sent is no longer what is chosen
  keep(false);
  say("");
});
addEventListener("online", () => { if (store.get(place)?.sent) send(); });
// A page from the browser's memory, or one that another window has answered since, is not what is saved.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
addEventListener("storage", (event) => {
  if (event.key === "mitune-survey:saved" && store.get(event.key)?.place === place) {
    sessionStorage.setItem("elsewhere", place);
    location.reload();
  }
});

const kept = store.get(place);
if (kept && same(kept.before, answered())) {
  for (const box of boxes) box.checked = kept.chosen.includes(box.value);
  if (kept.sent) submit();
} else if (kept) {
  store.remove(place); // answered since then
  if (!same(pictures(kept.chosen), answered())) say(form.dataset.elsewhere);
}
try {
  if (sessionStorage.getItem("elsewhere") === place) say(form.dataset.elsewhere);
  sessionStorage.removeItem("elsewhere");
} catch { /* forbidden */ }

// Where a browser does not fetch ahead by itself.
if (!document.createElement("link").relList?.supports?.("prefetch")) {
  addEventListener("load", () => {
    for (const link of document.querySelectorAll("link[rel=prefetch]")) new Image().src = link.href;
  });
}

// Chat with the model and what it costs, counting up; the machine's state once a second.
"use strict";

const at = (id) => document.getElementById(id);
const put = (id, text) => { at(id).textContent = text; };

const POLL_MS = 1000;
const IDLE_WINDOW = 10;  // polls
const ANSWER_TOKENS_MAX = 512;

const state = { model: "", usdPerHour: null, running: 0, samples: [] };
let messages = [];
let asking = null;  // the AbortController of the answer at hand

// Small amounts keep the digits that tell something: $0.000012345.
function dollars(usd) {
  if (usd >= 0.01) return "$" + usd.toFixed(4);
  return "$" + usd.toFixed(9);
}

// ---- the machine's state

function showState(status) {
  const queue = status.queue, kv = status.kv, card = status.rate_card;
  state.model = status.model.name;
  state.running = queue.running;
  state.usdPerHour = card === null ? null : card.usd_per_hour * card.machine_share;
  put("model", `${status.model.name}, ${status.model.weight_type} weights, ${status.model.kernels.split(":")[0]} kernels`);
  put("running", queue.running);
  put("waiting", queue.waiting);
  put("kv", `${Math.round(100 * kv.blocks_used / Math.max(1, kv.blocks))} %`);
  put("rate", state.usdPerHour === null ? "no price set" : state.usdPerHour.toFixed(3));
  put("ready", status.ready ? "ready" : status.reason);
  const total = Object.values(status.machine_seconds).reduce((sum, x) => sum + x, 0);
  state.samples.push({ idle: status.machine_seconds.idle, total });
  if (state.samples.length > IDLE_WINDOW) state.samples.shift();
  const first = state.samples[0], last = state.samples.at(-1);
  const spent = last.total - first.total;
  if (spent > 0) put("idle", `${Math.round(100 * (last.idle - first.idle) / spent)} %`);
}

async function poll() {
  if (!document.hidden) {
    try {
      const reply = await fetch("/status", { cache: "no-store" });
      if (reply.ok) showState(await reply.json());
      else put("ready", (await reply.text()).trim());
    } catch {
      put("ready", "does not answer");
    }
  }
  setTimeout(poll, POLL_MS);
}

// ---- one answer

function addEntry(who) {
  const entry = document.createElement("li");
  const parts = {};
  for (const name of ["who", "text", "bill"]) {
    parts[name] = document.createElement(name === "text" ? "div" : "span");
    parts[name].className = name;
    entry.append(parts[name]);
  }
  parts.who.textContent = who;
  at("talk").append(entry);
  return parts;
}

// Until the service says what the answer cost: this machine's price for the time so far, shared with
// the requests that run beside it.
function estimate(seconds) {
  if (state.usdPerHour === null) return null;
  return state.usdPerHour / 3600 * seconds / Math.max(1, state.running);
}

function showProgress(meter) {
  const seconds = (performance.now() - meter.began) / 1000;
  const usd = estimate(seconds);
  put("cost", usd === null ? "no price set" : "≈ " + dollars(usd));
  put("tokens", meter.pieces ? "≈ " + meter.pieces : "–");
  if (meter.first !== null) {
    put("first", `${Math.round(meter.first - meter.began)} ms`);
    const since = (performance.now() - meter.first) / 1000;
    if (meter.pieces > 1 && since > 0) put("speed", "≈ " + ((meter.pieces - 1) / since).toFixed(1));
  }
}

function showBill(meter, usage, entry) {
  const seconds = (meter.last - meter.first) / 1000;
  const count = usage.completion_tokens;
  put("tokens", `${usage.prompt_tokens} + ${count}`);
  const speed = count > 1 && seconds > 0 ? ((count - 1) / seconds).toFixed(1) : "–";
  put("speed", speed);
  if (usage.cost === undefined || usage.cost === null) {
    put("cost", "no price set");
    put("cost-note", "Start the service with --price-per-hour to see money.");
    entry.bill.textContent = `${count} tokens, ${speed} a second`;
    return;
  }
  put("cost", dollars(usage.cost));
  put("cost-note", "As it stands in the books.");
  put("per-dollar", usage.cost > 0 ? Math.floor(1 / usage.cost).toLocaleString("en-US") : "–");
  entry.bill.textContent = `${count} tokens, ${speed} a second, ${dollars(usage.cost)}`;
}

// Calls `each` with the object of every event until [DONE].
async function readEvents(body, each) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      each(JSON.parse(data));
    }
  }
}

async function request(signal) {
  const headers = { "Content-Type": "application/json" };
  if (at("key").value) headers.Authorization = "Bearer " + at("key").value;
  const system = at("system").value.trim();
  const asked = system ? [{ role: "system", content: system }, ...messages] : messages;
  const reply = await fetch("/v1/chat/completions", {
    method: "POST", headers, signal,
    body: JSON.stringify({
      model: state.model, messages: asked, stream: true,
      stream_options: { include_usage: true }, max_completion_tokens: ANSWER_TOKENS_MAX,
      temperature: 0,
    }),
  });
  if (reply.ok) return reply.body;
  if (reply.status === 401) at("more").open = true;
  throw new Error((await reply.json()).error.message);
}

async function answer(entry) {
  const meter = { began: performance.now(), first: null, last: null, pieces: 0 };
  const ticking = setInterval(() => showProgress(meter), 100);
  let usage = null;
  try {
    await readEvents(await request(asking.signal), (event) => {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) usage = event.usage;
      const text = event.choices?.[0]?.delta?.content;
      if (!text) return;
      meter.last = performance.now();
      meter.first ??= meter.last;
      ++meter.pieces;
      entry.text.textContent += text;
    });
  } finally {
    clearInterval(ticking);
    showProgress(meter);
  }
  if (usage) showBill(meter, usage, entry);
}

async function ask() {
  const question = at("question").value.trim();
  if (!question || asking) return;
  asking = new AbortController();
  at("question").value = "";
  put("problem", "");
  for (const id of ["speed", "first", "tokens", "per-dollar"]) put(id, "–");
  put("cost-note", "Counting: machine time so far at this machine's price.");
  at("send").disabled = true;
  at("stop").hidden = false;
  messages.push({ role: "user", content: question });
  addEntry("You").text.textContent = question;
  const entry = addEntry("Model");
  try {
    await answer(entry);
    messages.push({ role: "assistant", content: entry.text.textContent });
    put("announce", `${entry.text.textContent} ${entry.bill.textContent}`);
  } catch (error) {
    messages.pop();
    if (error.name === "AbortError") {
      entry.bill.textContent = "stopped; what was done until then is in the books";
      put("cost-note", "Stopped. What was done until then is in the books.");
      put("announce", "Stopped.");
    } else {
      put("problem", error.message);
      put("cost-note", "");
      at("question").value = question;
    }
  } finally {
    asking = null;
    at("send").disabled = false;
    at("stop").hidden = true;
    at("question").focus();
  }
}

function stop() {
  if (asking) asking.abort();
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
at("stop").addEventListener("click", stop);
at("clear").addEventListener("click", () => {
  stop();
  messages = [];
  at("talk").replaceChildren();
  at("question").focus();
});
poll();

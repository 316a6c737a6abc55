// The live panel: reads /metrics twice a second while the page is visible and draws what it says.

const POINTS = 90;
const PERIOD_MS = 700;
const $ = (id) => document.getElementById(id);
const history = { rate: [], ttft: [], itl: [] };
let last = null;

export function parseMetrics(text) {
  const values = {};
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+(\S+)/.exec(line);
    if (match) values[match[1]] = (values[match[1]] ?? 0) + Number(match[2]);
  }
  return values;
}

function fit(canvas) {
  const scale = devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

const colour = (name) => {
  const probe = document.querySelector(`.legend .${name}`);
  return getComputedStyle(probe).backgroundColor;
};

function drawBlocks(total, used, cached) {
  const { context, width, height } = fit($("blocks"));
  if (!total || !width) return;
  const cells = Math.min(total, 600); // one cell a block while they can be told apart, else a share of them
  const columns = Math.max(1, Math.ceil(Math.sqrt((cells * width) / height)));
  const size = Math.min(width / columns, height / Math.ceil(cells / columns));
  const share = (count) => Math.ceil((count / total) * cells);
  const [usedCells, cachedCells] = [share(used), share(used + cached)];
  const colours = { used: colour("used"), cached: colour("cached"), free: colour("free") };
  const gap = size > 5 ? 1 : 0.5;
  for (let cell = 0; cell < cells; cell += 1) {
    context.fillStyle = cell < usedCells ? colours.used : cell < cachedCells ? colours.cached : colours.free;
    const [x, y] = [(cell % columns) * size, Math.floor(cell / columns) * size];
    context.fillRect(x, y, size - gap, size - gap);
  }
}

function drawChart(canvas, points) {
  const { context, width, height } = fit(canvas);
  const top = Math.max(...points.filter((value) => value !== null), 1e-9);
  context.strokeStyle = colour("used");
  context.lineWidth = 1.5;
  context.fillStyle = context.strokeStyle;
  context.beginPath();
  let pen = false; // points without a value (nothing was measured then) are bridged
  points.forEach((value, index) => {
    if (value === null) return;
    const x = ((index + POINTS - points.length) / (POINTS - 1)) * width;
    const y = height - 2 - (value / top) * (height - 6);
    if (pen) context.lineTo(x, y); else context.moveTo(x, y);
    pen = true;
    context.fillRect(x - 1, y - 1, 2, 2);
  });
  context.stroke();
}

function push(series, value) {
  series.push(value);
  if (series.length > POINTS) series.shift();
}

function meanSince(values, name) {
  const count = (values[`${name}_count`] ?? 0) - (last.values[`${name}_count`] ?? 0);
  const sum = (values[`${name}_sum`] ?? 0) - (last.values[`${name}_sum`] ?? 0);
  return count > 0 ? sum / count : null;
}

const milliseconds = (seconds) => (seconds === null ? "" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`);

function show(values, now) {
  $("running").textContent = values["vllm:num_requests_running"] ?? "–";
  $("waiting").textContent = values["vllm:num_requests_waiting"] ?? "–";
  const queries = values["vllm:prefix_cache_queries_total"] ?? 0;
  const hits = values["vllm:prefix_cache_hits_total"] ?? 0;
  $("hits").textContent = queries ? `${Math.round((100 * hits) / queries)} %` : "–";
  const total = values["oai_server:kv_blocks_total"] ?? 0;
  const used = values["oai_server:kv_blocks_used"] ?? 0;
  const cached = values["oai_server:kv_blocks_cached"] ?? 0;
  $("kv-text").textContent = total ? `${used} of ${total}` : "";
  drawBlocks(total, used, cached);
  if (last) {
    const tokens = (values["vllm:generation_tokens_total"] ?? 0) - (last.values["vllm:generation_tokens_total"] ?? 0);
    const rate = Math.max(0, tokens / ((now - last.now) / 1000));
    const ttft = meanSince(values, "vllm:time_to_first_token_seconds");
    const itl = meanSince(values, "vllm:inter_token_latency_seconds");
    $("rate").textContent = rate ? rate.toFixed(rate < 10 ? 1 : 0) : "0";
    if (ttft !== null) $("ttft-text").textContent = milliseconds(ttft);
    if (itl !== null) $("itl-text").textContent = milliseconds(itl);
    push(history.rate, rate);
    push(history.ttft, ttft);
    push(history.itl, itl);
    drawChart($("rate-chart"), history.rate);
    drawChart($("ttft-chart"), history.ttft);
    drawChart($("itl-chart"), history.itl);
  }
  last = { values, now };
}

function showHealth(text, bad) {
  $("health").textContent = text;
  $("health").classList.toggle("bad", bad);
}

async function poll(headers) {
  try {
    const health = await fetch("health");
    const detail = await health.json().catch(() => ({}));
    if (health.ok) showHealth("ready", false);
    else showHealth(`${detail.status ?? "not ready"} ${detail.phase ?? ""}`.trim(), true);
    if (!$("live").hidden) {
      const metrics = await fetch("metrics", { headers: headers() });
      if (metrics.ok) show(parseMetrics(await metrics.text()), performance.now());
    }
  } catch {
    showHealth("the server does not answer", true);
  }
}

export function startPanel(headers) {
  const tick = async () => {
    if (!document.hidden) await poll(headers);
    setTimeout(tick, PERIOD_MS);
  };
  tick();
}

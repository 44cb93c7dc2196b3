// The live page: asks the server what has changed, and puts charts, table and details that it drew in their places.
'use strict';

const EVERY_MS = 1000; // Between two questions.
const SLOW_MS = 2500; // Between two updates of what is below the charts.
const LOADING_MS = 4000; // Between two drawings of the charts while logs are still being read.
const ROWS = 20; // Rows of the table that are changed before the browser draws.
const DRAG = 8; // Pixels; less is a click.
const body = document.body;
const run = body.dataset.run || '';
const charts = document.getElementById('charts');
const controls = document.getElementById('controls');
const metrics = document.getElementById('metrics');
const table = document.getElementById('table');
const details = document.getElementById('details');
const header = document.getElementById('header');
const problem = document.getElementById('problem');
const pulse = document.getElementById('pulse');
const tip = document.getElementById('tip');
let revision = Number(body.dataset.revision);
let slowAt = -Infinity;
let drawnAt = -Infinity;
let slowStale = true;
let listStale = true;
let filled = Promise.resolve(); // Until all rows of the table are there.

// ---- the address says what is chosen ----

const query = () => new URLSearchParams(location.search);

function choose(change) {
  const chosen = query();
  change(chosen);
  for (const [name, value] of [...chosen]) if (value === '' && name !== 'runs') chosen.delete(name, value);
  const text = chosen.toString();
  history.replaceState(null, '', text ? '?' + text : location.pathname);
  showReset();
  listStale = slowStale = true;
  slowAt = -Infinity;
  refreshCharts();
}

function showReset() {
  const chosen = query();
  document.getElementById('reset').hidden = !(chosen.has('first') || chosen.has('last'));
}

controls.addEventListener('submit', (event) => event.preventDefault());
controls.addEventListener('change', (event) => {
  const field = event.target;
  choose((chosen) => chosen.set(field.name, field.value));
});
document.getElementById('reset').addEventListener('click', () =>
  choose((chosen) => {
    chosen.delete('first');
    chosen.delete('last');
  }));
if (metrics) {
  metrics.addEventListener('change', () =>
    choose((chosen) => {
      chosen.delete('metric');
      for (const each of metrics.querySelectorAll('input:checked')) chosen.append('metric', each.value);
      if (!chosen.has('metric')) chosen.append('metric', 'none');
    }));
}
table.addEventListener('change', async (event) => {
  if (event.target.name !== 'pick') return;
  await filled;
  const boxes = [...table.querySelectorAll('input[name=pick]')];
  const picked = boxes.filter((each) => each.checked).map((each) => each.value);
  choose((chosen) => {
    if (picked.length === boxes.length) chosen.delete('runs');
    else chosen.set('runs', picked.join(','));
  });
});

// ---- what the server sends ----

async function ask(path, more) {
  const asked = query();
  for (const [name, value] of Object.entries(more || {})) asked.set(name, value);
  const answer = await fetch(path + '?' + asked.toString(), { cache: 'no-store' });
  if (answer.status === 400) throw new Error(await answer.text());
  if (!answer.ok) throw new TypeError(String(answer.status));
  return answer;
}

function connected(yes) {
  pulse.classList.toggle('lost', !yes);
  pulse.lastElementChild.textContent = yes ? 'live' : 'no connection';
}

function say(error) {
  // A TypeError is of the connection; anything else is a sentence of the server about what was chosen.
  if (error instanceof TypeError) return connected(false);
  problem.hidden = !error;
  problem.textContent = error ? error.message : '';
}

const pause = () => new Promise((done) => setTimeout(done, 0));

// Ends after the browser has drawn.
const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));

function put(place, text) {
  if (place.lastText === text) return;
  place.lastText = text;
  place.innerHTML = text; // Escaped by the server; scripts in it would not run, and the policy forbids them.
}

// ---- charts: drawn by the server for the width that there is, those in view alone ----

const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.inView = entry.isIntersecting;
  drawStale();
}, { rootMargin: '200px' });
let drawing = false;

async function refreshCharts() {
  let names;
  try {
    names = await (await ask('/charts', run ? { run } : {})).json();
    say(null);
  } catch (error) {
    say(error);
    return;
  }
  const there = new Map([...charts.children].map((each) => [each.dataset.chart, each]));
  for (const [name, place] of there) if (!names.includes(name)) place.remove();
  let before = null;
  for (const name of names) {
    let place = there.get(name);
    if (!place) {
      place = document.createElement('div');
      place.className = 'chart';
      place.dataset.chart = name;
      inView.observe(place);
      follow(place);
    }
    if (before ? before.nextElementSibling !== place : charts.firstElementChild !== place) {
      charts.insertBefore(place, before ? before.nextElementSibling : charts.firstElementChild);
    }
    place.stale = true;
    before = place;
  }
  drawStale();
}

async function drawStale() {
  if (drawing) return;
  drawing = true;
  try {
    for (;;) {
      const place = [...charts.children].find((each) => each.stale && each.inView);
      if (!place) break;
      const width = Math.round(place.clientWidth);
      if (!width) break; // Not laid out yet.
      place.stale = false;
      const answer = await ask('/chart', { chart: place.dataset.chart, width, ...(run ? { run } : {}) });
      const text = await answer.text();
      if (!place.held) put(place, text);
      else place.stale = true;
      if (place.held) break;
      await pause();
    }
  } catch (error) {
    say(error);
  } finally {
    drawing = false;
  }
}

let widthBefore = charts.clientWidth;
new ResizeObserver(() => {
  if (Math.abs(charts.clientWidth - widthBefore) < 4) return;
  widthBefore = charts.clientWidth;
  for (const each of charts.children) each.stale = true;
  drawStale();
}).observe(charts);

// ---- under the pointer ----

function axes(plot) {
  const number = (name) => Number(plot.dataset[name]);
  const box = plot.querySelector('figure svg').getBoundingClientRect();
  const scale = box.width / number('width');
  const invert = (low, high, log, share) =>
    log ? low * (high / low) ** share : low + (high - low) * share;
  return {
    box, scale,
    left: number('left'), right: number('right'), top: number('top'), bottom: number('bottom'),
    step: (x) => invert(number('xLow'), number('xHigh'), number('xLog'), (x - number('left')) / (number('right') - number('left'))),
    value: (y) => invert(number('yLow'), number('yHigh'), number('yLog'), (number('bottom') - y) / (number('bottom') - number('top'))),
  };
}

function svg(name, parent, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

function highlight(place, key) {
  for (const line of place.querySelectorAll('path[data-key]')) {
    line.classList.toggle('near', key !== '' && line.dataset.key === key);
    line.classList.toggle('dim', key !== '' && line.dataset.key !== key);
  }
}

let asking = false;
let pointer = null;

async function point() {
  if (asking) return;
  asking = true;
  while (pointer) {
    const { place, step, value, x, y } = pointer;
    pointer.done = true;
    try {
      const text = await (await ask('/values', { chart: place.dataset.chart, step, value, ...(run ? { run } : {}) })).text();
      if (!pointer) break;
      tip.innerHTML = text; // As in put().
      tip.hidden = !text.trim();
      const box = tip.getBoundingClientRect();
      tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + 'px';
      tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.height - 8)) + 'px';
      const nearest = tip.querySelector('.nearest');
      highlight(place, nearest ? nearest.dataset.key || '' : '');
    } catch (error) {
      say(error);
      break;
    }
    if (pointer && pointer.done) break;
  }
  asking = false;
}

function follow(place) {
  let from = null;
  let band = null;
  const at = (event) => {
    const plot = place.querySelector('.plot');
    if (!plot) return null;
    const a = axes(plot);
    const x = (event.clientX - a.box.left) / a.scale;
    const y = (event.clientY - a.box.top) / a.scale;
    if (x < a.left || x > a.right || y < a.top - 8 || y > a.bottom + 8) return null;
    return { plot, a, x, y };
  };
  const leave = () => {
    pointer = null;
    tip.hidden = true;
    place.querySelectorAll('.cross').forEach((each) => each.remove());
    highlight(place, '');
  };
  place.addEventListener('pointermove', (event) => {
    const found = at(event);
    if (!found) return leave();
    const { plot, a, x, y } = found;
    const drawing = plot.querySelector('figure svg');
    plot.querySelectorAll('.cross').forEach((each) => each.remove());
    svg('path', drawing, { class: 'cross', d: `M${x} ${a.top}V${a.bottom}` });
    if (from !== null && band) {
      band.setAttribute('x', Math.min(from, x));
      band.setAttribute('width', Math.abs(x - from));
    }
    pointer = { place, step: a.step(x), value: a.value(y), x: event.clientX, y: event.clientY };
    point();
  });
  place.addEventListener('pointerleave', leave);
  place.addEventListener('pointerdown', (event) => {
    const found = event.pointerType === 'mouse' && event.button === 0 ? at(event) : null;
    if (!found) return;
    event.preventDefault();
    from = found.x;
    place.held = true;
    const drawing = found.plot.querySelector('figure svg');
    band = svg('rect', drawing, { class: 'zoom', x: from, y: found.a.top, width: 0, height: found.a.bottom - found.a.top });
  });
  addEventListener('pointerup', (event) => {
    if (from === null) return;
    const found = at(event);
    const start = from;
    from = null;
    place.held = false;
    if (band) band.remove();
    band = null;
    if (!found || Math.abs(found.x - start) < DRAG) return drawStale();
    const ends = [found.a.step(start), found.a.step(found.x)].sort((a, b) => a - b);
    choose((chosen) => {
      chosen.set('first', Math.max(0, Math.round(ends[0])));
      chosen.set('last', Math.round(ends[1]));
    });
  });
  place.addEventListener('dblclick', () => document.getElementById('reset').click());
}

table.addEventListener('pointerover', (event) => {
  const row = event.target.closest('tr[data-key]');
  for (const place of charts.children) highlight(place, row && !row.classList.contains('off') ? row.dataset.key : '');
});
table.addEventListener('pointerleave', () => {
  for (const place of charts.children) highlight(place, '');
});

// ---- what is below the charts, which may change a little later ----

// Replaces what has changed, some rows at a time: the browser lays out a table of hundreds of rows for long.
async function putTable(text) {
  if (table.lastText === text) return;
  table.lastText = text;
  const made = document.createElement('template');
  made.innerHTML = text; // As in put().
  const part = (of, selector) => of.querySelector('.runs ' + selector);
  const rows = [...made.content.querySelectorAll('.runs tbody tr')];
  rows.forEach((row) => { row.lastText = row.outerHTML; });
  const head = part(table, 'thead');
  const same = head && rows.length > 0 && head.outerHTML === part(made.content, 'thead').outerHTML;
  if (rows.length) part(made.content, 'tbody').replaceChildren();
  if (same) {
    // The table itself stays, with its rows and where it is scrolled to; what is around it is replaced.
    const kept = table.querySelector('.runs');
    [...table.children].forEach((each) => { if (each !== kept) each.remove(); });
    const parts = [...made.content.children];
    const at = parts.findIndex((each) => each.classList.contains('runs'));
    kept.before(...parts.slice(0, at));
    kept.after(...parts.slice(at + 1));
  } else {
    table.replaceChildren(made.content);
  }
  const place = part(table, 'tbody');
  let changed = 0;
  for (const [i, row] of rows.entries()) {
    const old = place.rows[i];
    if (old && old.lastText === row.lastText) continue;
    if (old) old.replaceWith(row);
    else place.append(row);
    changed += 1;
    if (changed % ROWS === 0) await frame();
  }
  while (place && place.rows.length > rows.length) place.lastElementChild.remove();
}

async function refreshSlow() {
  if (!slowStale || performance.now() - slowAt < SLOW_MS) return;
  const began = performance.now();
  slowStale = false;
  if (run) {
    put(header, await (await ask('/header/' + run)).text());
    const open = [...details.querySelectorAll('details')].map((each) => each.open);
    const playing = [...details.querySelectorAll('audio')].some((each) => !each.paused);
    if (!playing) {
      put(details, await (await ask('/details/' + run)).text());
      details.querySelectorAll('details').forEach((each, i) => {
        if (open[i] !== undefined && open.length === details.querySelectorAll('details').length) each.open = open[i];
      });
    }
  } else {
    filled = putTable(await (await ask('/table')).text());
    await filled;
  }
  // What takes long to read is asked for less often.
  slowAt = performance.now() + 5 * (performance.now() - began);
}

// ---- the loop ----

async function look() {
  try {
    if (!document.hidden) {
      const found = await (await ask('/changes', { since: revision })).json();
      const changed = found.runs.length > 0 && (!run || found.runs.includes(run));
      revision = found.revision;
      if (changed || found.listed) slowStale = listStale = true;
      // While the server still reads old logs, it is not asked to draw all of them at each look.
      const due = found.unread === 0 || performance.now() - drawnAt > LOADING_MS;
      if (listStale && due) {
        listStale = false;
        drawnAt = performance.now();
        await refreshCharts();
      }
      await refreshSlow();
      connected(true);
    }
  } catch (error) {
    say(error);
  }
  setTimeout(look, EVERY_MS);
}

showReset();
look();

// The page with scripts: everything here is a convenience over links and forms that work without.
'use strict';
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  root.classList.add('js');

  // Signing in: the token leaves the address, and the history, before anything else happens.
  const signInForm = $('sign-in-form');
  if (signInForm) {
    const found = location.hash.match(/^#token=([0-9a-f]{32})$/);
    if (location.hash) history.replaceState(null, '', '/');
    signInForm.addEventListener('submit', () => sessionStorage.setItem('restore', '1'));
    if (found && $('token')) {
      $('token').value = found[1];
      signInForm.requestSubmit();
    }
    return;
  }

  const pane = $('pane'), scroll = $('tree-scroll'), table = $('tree-table'), lines = $('tree-lines');
  const wish = {search: $('search').value, order: 'tree', reversed: false};
  const query = new URLSearchParams(location.search);
  if (query.get('order')) wish.order = query.get('order');
  wish.reversed = query.get('reversed') === 'on';
  const picked = new Set();
  const closed = new Set(JSON.parse(localStorage.getItem('closed') || '[]'));
  let total = Number(table.dataset.total), from = Number(table.dataset.from);
  let rowHeight = 30, activeKey = null, loading = null, selectedKey = nodeOf(location);

  function nodeOf(place) {
    const params = new URLSearchParams(place.search);
    return place.pathname === '/node' ? params.get('name') : params.get('node');
  }
  const say = (text) => { $('said').textContent = text; };
  const rows = () => [...lines.querySelectorAll('tr[data-key]')];
  const rowOf = (key) => rows().find((row) => row.dataset.key === key);

  // Requests. A session that has ended leads to the page that asks for a token, or the password.
  // What the page asks for by itself while nobody touches it does not keep the session alive.
  const UNATTENDED = 60_000;
  let touched = Date.now();
  for (const kind of ['keydown', 'pointerdown', 'pointermove', 'wheel'])
    addEventListener(kind, () => { touched = Date.now(); }, {capture: true, passive: true});
  const sessionText = location.protocol === 'https:' ? 'The session has ended. Load the page anew to sign in.'
    : 'The manager was started anew. Open the URL that it printed.';
  async function ask(address, options = {}) {
    if (!options.method && Date.now() - touched > UNATTENDED)
      options = {...options, headers: {...options.headers, 'x-vellum-unattended': '1'}};
    const answer = await fetch(address, {...options, credentials: 'same-origin'});
    if (answer.status === 401) { showLink(sessionText); throw new Error('no session'); }
    return answer;
  }
  const post = (address, params) => ask(address, {method: 'POST', body: new URLSearchParams(params)});

  // The tree: a window of lines, and space for those above and below it.
  function rowsAddress(first, count, around) {
    const params = new URLSearchParams({search: wish.search, order: wish.order, from: first, count});
    if (wish.reversed) params.set('reversed', 'on');
    if (around) params.set('around', around);
    if (selectedKey) params.set('selected', selectedKey);
    return '/rows?' + params;
  }
  // One load at a time; of several wishes that come meanwhile, the last counts.
  let wished = null;
  function loadRows(first, around) {
    wished = {first, around};
    return loading ??= (async () => {
      while (wished) {
        const {first, around} = wished;
        wished = null;
        await loadWindow(first, around);
      }
      loading = null;
    })();
  }
  async function loadWindow(first, around) {
    const count = Math.max(100, 3 * Math.ceil(scroll.clientHeight / rowHeight));
    let answer, html;
    try {
      answer = await ask(rowsAddress(Math.max(0, first), count, around));
      html = await answer.text();
    } catch { return; }
    if (!answer.ok) return;
    const had = lines.contains(document.activeElement) || document.activeElement === scroll;
    lines.innerHTML = html;
    from = Number(answer.headers.get('x-vellum-from'));
    total = Number(answer.headers.get('x-vellum-total'));
    const all = Number(answer.headers.get('x-vellum-all'));
    $('tree-count').textContent = total === all ? `${all} lines` : `${total} of ${all} lines`;
    table.setAttribute('aria-rowcount', total + 1);
    placeRows();
    if (around) reveal(around);
    if (had) (rowOf(activeKey) || scroll).focus({preventScroll: true});
  }
  function space(id, count) {
    const part = $(id);
    if (!part.firstChild) part.append(document.createElement('tr'));
    part.firstChild.style.height = `${count * rowHeight}px`;
    part.hidden = count <= 0;
  }
  function placeRows() {
    const first = lines.querySelector('tr[data-key]');
    if (first) rowHeight = first.getBoundingClientRect().height || rowHeight;
    space('space-above', from);
    space('space-below', Math.max(0, total - from - rows().length));
    showTimes(lines);
    for (const row of rows()) {
      const box = row.querySelector('input');
      if (box) box.checked = picked.has(row.dataset.key);
      row.setAttribute('aria-selected', row.dataset.key === selectedKey || picked.has(row.dataset.key));
      row.classList.toggle('shown', row.dataset.key === selectedKey);
    }
    const tab = rowOf(activeKey) || rowOf(selectedKey) || first;
    if (tab) tab.tabIndex = 0;
  }
  function reveal(key) {
    const row = rowOf(key);
    if (!row) return;
    const head = table.tHead.getBoundingClientRect().height, box = row.getBoundingClientRect();
    const frame = scroll.getBoundingClientRect();
    if (box.top < frame.top + head) scroll.scrollTop -= frame.top + head - box.top;
    if (box.bottom > frame.bottom) scroll.scrollTop += box.bottom - frame.bottom;
  }
  let scrolling = false;
  scroll.addEventListener('scroll', () => {
    if (scrolling) return;
    scrolling = true;
    requestAnimationFrame(() => {
      scrolling = false;
      const first = Math.floor(scroll.scrollTop / rowHeight), seen = Math.ceil(scroll.clientHeight / rowHeight);
      const end = from + rows().length;
      if ((first < from + 5 && from > 0) || (first + seen > end - 5 && end < total)) loadRows(first - seen);
    });
  });
  async function showIndex(index) {
    // Another load may come between, and bring other lines.
    for (let tries = 0; tries < 5; tries++) {
      index = Math.max(0, Math.min(total - 1, index));
      if (index >= from && index < from + rows().length) break;
      await loadRows(index - Math.ceil(scroll.clientHeight / rowHeight));
      scroll.scrollTop = index * rowHeight;
    }
    const row = rows()[index - from];
    if (row) focusRow(row);
  }
  function focusRow(row) {
    for (const other of rows()) other.tabIndex = -1;
    row.tabIndex = 0;
    activeKey = row.dataset.key;
    row.focus({preventScroll: true});
    reveal(activeKey);
  }

  // Branches stay as they were left, also over a restart.
  function keepClosed() { localStorage.setItem('closed', JSON.stringify([...closed].slice(0, 20000))); }
  async function toggleBranch(key) {
    if (!closed.delete(key)) closed.add(key);
    keepClosed();
    await post('/branches', {branch: key});
    activeKey = key;
    await loadRows(from);
  }
  async function restoreBranches() {
    if (!sessionStorage.getItem('restore')) return;
    sessionStorage.removeItem('restore');
    if (!closed.size) return;
    const params = [['close', 'these'], ...[...closed].map((key) => ['branch', key])];
    await post('/branches', params);
    await loadRows(0, selectedKey);
  }

  // The pane: any page of this server, without its frame.
  let paneMark = null, going = 0;
  async function go(address, options = {}) {
    const mark = paneMark = {};
    going++;
    let answer, html;
    pane.setAttribute('aria-busy', 'true');
    try {
      answer = await ask(address, {...options, headers: {'x-vellum-part': 'pane'}});
      html = await answer.text();
    } catch {
      say('The server does not answer.');
      return;
    } finally {
      going--;
      pane.removeAttribute('aria-busy');
    }
    if (mark !== paneMark) return;
    const place = new URL(answer.url);
    if (!options.stay) history.pushState(null, '', place.pathname + place.search);
    const title = answer.headers.get('x-vellum-title');
    if (title) document.title = `${decodeURIComponent(title)} · Vellum`;
    setPane(html, place, !options.stay);
  }
  function setPane(html, place, isNew) {
    pane.innerHTML = html;
    const key = nodeOf(place);
    document.body.className = place.pathname === '/' && !key ? 'in-tree' : 'in-pane';
    if (key !== selectedKey) {
      selectedKey = key;
      if (key && !rowOf(key)) loadRows(0, key); else { placeRows(); if (key) reveal(key); }
    }
    preparePane();
    if (isNew) {
      pane.scrollTop = 0;
      const title = pane.querySelector('[autofocus], form.fields input:not([type=hidden]), form.fields select') || pane.querySelector('h1');
      if (title) { if (title.tagName === 'H1') title.tabIndex = -1; title.focus(); }
      const told = pane.querySelector('.told, [role=alert]');
      if (told) say(told.textContent);
    }
  }
  function preparePane() {
    showTimes(pane);
    for (const part of pane.querySelectorAll('[data-lazy]')) loadLazy(part);
    for (const button of pane.querySelectorAll('[data-copy]')) button.hidden = !navigator.clipboard;
    if ($('drop')) { $('drop').hidden = false; }
  }
  async function loadLazy(part) {
    const address = part.dataset.lazy;
    delete part.dataset.lazy;
    part.setAttribute('aria-busy', 'true');
    try {
      const answer = await ask(address, {headers: {'x-vellum-part': 'pane'}});
      const html = await answer.text();
      if (answer.ok) { part.innerHTML = html; showTimes(part); }
    } catch { /* The link in it stays. */ } finally { part.removeAttribute('aria-busy'); }
  }
  const refreshPane = async () => {
    const isReading = ['/', '/store', '/node'].includes(location.pathname);
    if (!isReading || going || pane.contains(document.activeElement) && document.activeElement.matches('input, select')) return;
    const place = new URL(location.href), mark = paneMark;
    place.searchParams.delete('told');
    try {
      const answer = await ask(place, {headers: {'x-vellum-part': 'pane'}});
      const told = pane.querySelector('.told'), html = await answer.text();
      // Somebody went elsewhere meanwhile; or it was not to be had, which is shown only if it has gone.
      if (mark !== paneMark || !answer.ok && answer.status !== 404) return;
      setPane(html, place, false);
      if (told) pane.querySelector('h1')?.before(told);
    } catch { /* The news tell that the server is gone. */ }
  };

  // Times as the viewer's clock has them.
  const two = (number) => String(number).padStart(2, '0');
  function showTimes(part) {
    for (const time of part.querySelectorAll('time[datetime]')) {
      const at = new Date(time.dateTime);
      time.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
    }
  }

  document.addEventListener('click', (event) => {
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest('a');
    if (link && link.dataset.order) {
      event.preventDefault();
      const params = new URL(link.href).searchParams;
      wish.order = params.get('order');
      wish.reversed = params.get('reversed') === 'on';
      refreshHead();
      scroll.scrollTop = 0;
      loadRows(0);
    } else if (link && 'into' in link.dataset) {
      event.preventDefault();
      const part = link.closest('.lazy');
      part.dataset.lazy = link.getAttribute('href');
      loadLazy(part);
    } else if (link && 'pane' in link.dataset) {
      event.preventDefault();
      go(link.href);
    } else if (event.target.dataset && 'copy' in event.target.dataset) {
      navigator.clipboard.writeText(event.target.previousElementSibling.textContent);
      say('Copied.');
    } else {
      const row = event.target.closest('tr[data-key]');
      if (row && !event.target.closest('button, input, a')) {
        focusRow(row);
        row.querySelector('a.title')?.click();
      }
    }
  });
  function refreshHead() {
    for (const head of table.tHead.querySelectorAll('th')) {
      const link = head.querySelector('a');
      if (!link) continue;
      const order = link.dataset.order, isSorted = order === wish.order;
      link.querySelector('span')?.remove();
      head.removeAttribute('aria-sort');
      let next = {order, reversed: false};
      if (isSorted) {
        const arrow = document.createElement('span');
        arrow.setAttribute('aria-hidden', 'true');
        arrow.textContent = wish.reversed ? ' ↑' : ' ↓';
        link.append(arrow);
        head.setAttribute('aria-sort', (order === 'name' || order === 'age') !== wish.reversed ? 'ascending' : 'descending');
        next = wish.reversed ? {order: 'tree', reversed: false} : {order, reversed: true};
      }
      link.href = `/?order=${next.order}${next.reversed ? '&reversed=on' : ''}`;
    }
  }
  document.addEventListener('change', (event) => {
    const box = event.target;
    if (box.name === 'node' && box.type === 'checkbox') pick(box.value, box.checked);
    if (box.id === 'upload-file' && box.files[0]) upload(box.files[0]);
  });
  function pick(key, isPicked) {
    if (isPicked) picked.add(key); else picked.delete(key);
    rowOf(key)?.setAttribute('aria-selected', isPicked);
    $('delete-picked').textContent = picked.size ? `Delete ${picked.size} selected` : 'Delete selected';
  }
  document.addEventListener('submit', (event) => {
    const form = event.target, button = event.submitter;
    if (form.id === 'search-form') {
      event.preventDefault();
      search();
    } else if (form.id === 'lines-form') {
      event.preventDefault();
      if (button?.name === 'branch') toggleBranch(button.value);
      else if (button?.name === 'close') closeBranches(button.value);
      else deletePicked();
    } else if ('pane' in form.dataset || form.action.endsWith('/download')) {
      event.preventDefault();
      const params = new URLSearchParams(new FormData(form, button));
      if (form.method === 'get') go(`${form.action}?${params}`);
      else { picked.clear(); go(form.action, {method: 'POST', body: params}); }
    }
  });
  async function closeBranches(which) {
    await post('/branches', {close: which});
    closed.clear();
    scroll.scrollTop = 0;
    await loadRows(0);
    if (which === 'all') for (const row of rows()) if (row.getAttribute('aria-expanded') === 'false') closed.add(row.dataset.key);
    keepClosed();
  }
  function deletePicked() {
    const keys = picked.size ? [...picked] : [activeKey || selectedKey].filter(Boolean);
    go('/act', {method: 'POST', body: new URLSearchParams([['do', 'delete'], ...keys.map((key) => ['node', key])])});
  }
  let typing = null;
  function search() {
    wish.search = $('search').value;
    scroll.scrollTop = 0;
    loadRows(0);
  }
  for (const kind of ['input', 'change']) $('search').addEventListener(kind, () => { clearTimeout(typing); typing = setTimeout(search, 120); });
  addEventListener('popstate', () => go(location.href, {stay: true}));

  // Keys.
  const letters = Object.fromEntries((table.dataset.letters || '').split(' ').filter(Boolean).map((pair) => pair.split('=')));
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.matches('input:not([type=checkbox]), select, textarea');
    if (event.key === 'Escape') {
      if (isTyping) event.target.blur();
      if (document.body.className === 'in-pane' && matchMedia('(max-width: 56rem)').matches) go('/');
      (rowOf(activeKey || selectedKey) || rows()[0])?.focus();
      return;
    }
    if (isTyping) {
      if (event.target.id === 'search' && event.key === 'ArrowDown' && rows()[0]) { event.preventDefault(); focusRow(rows()[0]); }
      return;
    }
    if (event.target.closest('#tree-scroll') && treeKey(event)) { event.preventDefault(); return; }
    const pages = {'?': '/keys', j: '/jobs', o: '/store'};
    if (event.key === '/') { event.preventDefault(); $('search').focus(); $('search').select(); }
    else if (pages[event.key]) go(pages[event.key]);
    else if (event.key === 'Delete') deletePicked();
    else if (letters[event.key]) {
      const [verb, subject] = letters[event.key].split(':');
      const key = event.target.closest('tr[data-key]')?.dataset.key || selectedKey || activeKey;
      if (subject === 'store') go(`/act?do=${verb}`);
      else if (verb === 'delete') deletePicked();
      else if (key) go(`/act?do=${verb}&node=${encodeURIComponent(key)}`);
      else say('Select an image or snapshot first.');
    }
  });
  function treeKey(event) {
    const row = event.target.closest('tr[data-key]');
    if (!row && event.key.startsWith('Arrow') && event.target === scroll) {
      showIndex(Math.ceil(scroll.scrollTop / rowHeight));
      return true;
    }
    if (!row) return false;
    const index = from + rows().indexOf(row), screen = Math.max(1, Math.floor(scroll.clientHeight / rowHeight) - 2);
    const moves = {ArrowDown: 1, ArrowUp: -1, PageDown: screen, PageUp: -screen};
    const expanded = row.getAttribute('aria-expanded');
    if (moves[event.key]) showIndex(index + moves[event.key]);
    else if (event.key === 'Home') showIndex(0);
    else if (event.key === 'End') showIndex(total - 1);
    else if (event.key === 'ArrowRight') { if (expanded === 'false') toggleBranch(row.dataset.key); else if (expanded) showIndex(index + 1); }
    else if (event.key === 'ArrowLeft') {
      const level = Number(row.getAttribute('aria-level'));
      if (expanded === 'true') toggleBranch(row.dataset.key);
      else for (let at = index - 1; at >= from; at--) if (Number(rows()[at - from].getAttribute('aria-level')) < level) { showIndex(at); break; }
    } else if (event.key === 'Enter' && !event.target.closest('a, button')) row.querySelector('a.title')?.click();
    else if (event.key === ' ' && row.querySelector('input')) {
      const box = row.querySelector('input');
      box.checked = !box.checked;
      pick(row.dataset.key, box.checked);
    } else return false;
    return true;
  }
  table.addEventListener('focusin', (event) => {
    const row = event.target.closest('tr[data-key]');
    if (row) activeKey = row.dataset.key;
  });

  // News. A window that nobody sees listens to none.
  let news = null, last = null, due = null;
  function showLink(text) {
    $('link-state').textContent = text;
    $('link-state').hidden = !text;
  }
  function listen() {
    news = new EventSource('/events');
    news.onmessage = (event) => {
      showLink('');
      const pulse = JSON.parse(event.data), before = last;
      last = pulse;
      const rate = $('guest-rate');
      if (rate) rate.textContent = pulse.guests;
      $('running').textContent = pulse.running;
      $('running').hidden = !pulse.running;
      if (!before || before.jobs !== pulse.jobs) refreshLive();
      if (before && before.tree !== pulse.tree && !due) due = setTimeout(() => { due = null; loadRows(from); refreshPane(); }, 100);
    };
    news.onerror = () => {
      showLink('The server does not answer. Trying again.');
      if (news.readyState === EventSource.CLOSED) setTimeout(find, 1000);
    };
  }
  async function find() {
    try {
      const answer = await ask('/rows?count=1');
      if (answer.ok) { listen(); loadRows(from); return; }
    } catch (error) { if (error.message === 'no session') return; }
    setTimeout(find, 1000);
  }
  async function refreshLive() {
    for (const part of document.querySelectorAll('[data-live]')) {
      try {
        const answer = await ask(`/${part.dataset.live}?live=on`);
        if (answer.ok) { part.innerHTML = await answer.text(); showTimes(part); }
      } catch { return; }
    }
  }
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) { news?.close(); news = null; }
    else if (!news) { listen(); loadRows(from); refreshPane(); }
  });

  // Uploads: pieces with their hashes; one that was broken off goes on where it was.
  const PIECE = 4 << 20;
  const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  async function upload(file) {
    const text = $('upload-text'), bar = $('upload-progress');
    const tell = (words) => { text.textContent = words; };
    const mark = `upload ${file.name} ${file.size} ${file.lastModified}`;
    let status = null;
    const known = sessionStorage.getItem(mark);
    if (known) {
      const answer = await ask(`/uploads/${known}`);
      if (answer.ok) status = await answer.json();
    }
    if (!status) {
      const answer = await post('/uploads', {name: file.name, length: file.size});
      if (!answer.ok) { tell(await answer.text()); return; }
      status = await answer.json();
      sessionStorage.setItem(mark, status.number);
    }
    bar.hidden = false;
    for (let failures = 0; status.arrived < status.length;) {
      const piece = await file.slice(status.arrived, status.arrived + PIECE).arrayBuffer();
      const hash = hex(await crypto.subtle.digest('SHA-256', piece));
      try {
        const answer = await ask(`/uploads/${status.number}?offset=${status.arrived}&sha256=${hash}`,
          {method: 'POST', body: piece, headers: {'content-type': 'application/octet-stream'}});
        if (answer.ok) { status = await answer.json(); failures = 0; }
        else if (answer.status === 409) status = await (await ask(`/uploads/${status.number}`)).json();
        else if (answer.status !== 400 || ++failures > 5) { tell(await answer.text()); return; }
      } catch (error) {
        if (error.message === 'no session' || ++failures > 60) { tell('The upload broke off. Choose the file again to go on.'); return; }
        tell('The server does not answer. Trying again.');
        await pause(1000);
      }
      bar.max = status.length || 1;
      bar.value = status.arrived;
      tell(`${Math.floor(100 * status.arrived / (status.length || 1))} % of ${file.name}`);
    }
    const source = $('field-source'), name = $('field-name');
    if (!source) return;
    source.value = `upload:${status.number}`;
    if (name && !name.value) name.value = file.name.replace(/\.[^.]*$/, '');
    tell(`${file.name} has arrived. Continue to store it.`);
  }
  document.addEventListener('dragover', (event) => { if (event.dataTransfer.types.includes('Files')) event.preventDefault(); });
  document.addEventListener('drop', async (event) => {
    const file = event.dataTransfer.files[0];
    if (!file) return;
    event.preventDefault();
    if (!$('drop')) await go('/act?do=import');
    if ($('drop')) upload(file);
  });

  placeRows();
  if (selectedKey) reveal(selectedKey); else if (from) scroll.scrollTop = from * rowHeight;
  preparePane();
  restoreBranches();
  if (!document.hidden) listen();
})();

(() => {
  const complaints = [];
  const complain = (...words) => complaints.push(words.join(' '));
  const rect = e => e.getBoundingClientRect();
  const slack = 0.5; // of a pixel: what rounding may do
  const overlap = (a, b) => a.left < b.right - slack && b.left < a.right - slack && a.top < b.bottom - slack && b.top < a.bottom - slack;
  const inside = (a, b) => a.left >= b.left - slack && a.right <= b.right + slack && a.top >= b.top - slack && a.bottom <= b.bottom + slack;
  const shown = e => { const r = rect(e); return r.width > 0 && r.height > 0; };

  // Labels of a drawing neither overlap nor are cut off.
  let labels = 0;
  for (const svg of document.querySelectorAll('svg')) {
    const name = svg.querySelector('title').textContent;
    const texts = [...svg.querySelectorAll('.label')];
    labels += texts.length;
    texts.forEach((a, i) => {
      if (!shown(a)) complain(name + ':', JSON.stringify(a.textContent), 'is not shown');
      if (!inside(rect(a), rect(svg))) complain(name + ':', JSON.stringify(a.textContent), 'is cut off');
      for (const b of texts.slice(i + 1)) {
        if (overlap(rect(a), rect(b))) complain(name + ':', JSON.stringify(a.textContent), 'and', JSON.stringify(b.textContent), 'overlap');
      }
    });
    // What the flights carry stands outside the two life lines.
    const life = svg.querySelector('.life');
    if (life) for (const a of svg.querySelectorAll('.says, .free')) {
      if (overlap(rect(a), rect(life))) complain(name + ':', JSON.stringify(a.textContent), 'crosses a life line');
    }
  }

  // Nor do the parts of a line.
  for (const line of document.querySelectorAll('.bars a, .legend')) {
    const parts = [...line.children].filter(shown);
    parts.forEach((a, i) => parts.slice(i + 1).forEach(b => {
      if (overlap(rect(a), rect(b))) complain(JSON.stringify(a.textContent), 'and', JSON.stringify(b.textContent), 'overlap');
    }));
  }

  // The page does not scroll sideways, and nothing but the table's own frame sticks out of it.
  if (document.documentElement.scrollWidth > innerWidth) complain('the page scrolls sideways:', document.documentElement.scrollWidth, 'on', innerWidth);
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('.scroll, svg, .sr')) continue;
    if (shown(e) && (rect(e).right > innerWidth + slack || rect(e).left < -slack)) complain(e.tagName, JSON.stringify(e.textContent.slice(0, 40)), 'sticks out');
  }

  // Text can be read: WCAG 2.2, contrast of at least 4.5 to 1.
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = s => { const n = s.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const paper = parse(getComputedStyle(document.body).backgroundColor);
  const probe = document.createElement('i');
  document.body.append(probe);
  const variable = name => { probe.style.color = 'var(' + name + ')'; return parse(getComputedStyle(probe).color); };
  const grounds = [paper, variable('--band')];
  const seen = new Set();
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || e.closest('.sr, title, desc')) continue;
    const style = getComputedStyle(e);
    const colour = e.closest('svg') ? style.fill : style.color;
    if (seen.has(colour)) continue;
    seen.add(colour);
    for (const ground of grounds) {
      const c = contrast(parse(colour), ground);
      if (c < 4.5) complain('text in', colour, 'on', ground.join(','), 'has a contrast of', c.toFixed(2));
    }
  }
  probe.remove();

  if (document.scripts.length) complain('there is a script');
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  if (new Set(ids).size != ids.length) complain('an id is there twice');
  for (const a of document.querySelectorAll('a')) if (!document.querySelector(a.getAttribute('href'))) complain(a.href, 'leads nowhere');
  for (const svg of document.querySelectorAll('svg')) {
    for (const id of svg.getAttribute('aria-labelledby').split(' ')) if (!document.getElementById(id)?.textContent) complain(id, 'says nothing');
  }
  return {
    Complaints: complaints,
    Cells: [...document.querySelectorAll('tr[data-cell]')].filter(shown).map(e => e.dataset.cell),
    Ladders: document.querySelectorAll('.ladder svg').length,
    Labels: labels,
  };
})()

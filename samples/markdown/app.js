// Markdown as HTML: POST a text, and get the page. It knows headings, lists, quotes, code, emphasis and links.
addEventListener('fetch', (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  if (request.method !== 'POST') {
    return new Response('POST a text in Markdown\n', { status: 405, headers: { allow: 'POST' } });
  }
  const html = toHtml(await request.text());
  return new Response(html, { headers: { 'content-type': 'text/html; charset=utf-8' } });
}

// How a line begins, and the block that it and the lines like it make.
const BLOCKS = [
  [/^(#{1,6})\s+(.*)$/, ([heading]) => `<h${heading[1].length}>${inline(heading[2])}</h${heading[1].length}>`, 1],
  [/^>\s?(.*)$/, (lines) => `<blockquote>\n${toHtml(lines.map((line) => line[1]).join('\n'))}</blockquote>`],
  [/^[-*]\s+(.*)$/, (lines) => `<ul>\n${items(lines)}</ul>`],
  [/^\d+[.)]\s+(.*)$/, (lines) => `<ol>\n${items(lines)}</ol>`],
  [/^\s*$/, () => ''],
  [/^(.*)$/, (lines) => `<p>${lines.map((line) => inline(line[1])).join('\n')}</p>`],
];

function toHtml(text) {
  const lines = text.split(/\r?\n/);
  let html = '';
  while (lines.length > 0) {
    const block = lines[0].startsWith('```') ? code(lines) : blockOf(lines);
    if (block) html += `${block}\n`;
  }
  return html;
}

// Takes the lines of one block from the front.
function blockOf(lines) {
  const kind = (line) => (line.startsWith('```') ? undefined : BLOCKS.find(([begin]) => begin.test(line)));
  const [begin, write, linesMax = Infinity] = kind(lines[0]);
  const taken = [];
  while (lines.length > 0 && taken.length < linesMax && kind(lines[0])?.[0] === begin) {
    taken.push(begin.exec(lines.shift()));
  }
  return write(taken);
}

function code(lines) {
  lines.shift();
  const end = lines.findIndex((line) => line.startsWith('```'));
  const taken = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  return `<pre><code>${escaped(taken.join('\n'))}\n</code></pre>`;
}

function items(lines) {
  return lines.map((line) => `<li>${inline(line[1])}</li>\n`).join('');
}

function inline(text) {
  // What is between backticks stays as it is.
  return text
    .split(/(`[^`]+`)/)
    .map((part, i) => (i % 2 ? `<code>${escaped(part.slice(1, -1))}</code>` : marked(escaped(part))))
    .join('');
}

function marked(html) {
  return html
    .replace(/\*\*([^*]+)\*\*/g, '<strong>$1</strong>')
    .replace(/\*([^*]+)\*/g, '<em>$1</em>')
    .replace(/\[([^\]]+)\]\(((?:https?:\/\/|\/|#)[^)\s]*)\)/g, '<a href="$2">$1</a>');
}

function escaped(text) {
  const names = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  return text.replace(/[&<>"]/g, (character) => names[character]);
}

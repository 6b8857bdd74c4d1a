addEventListener('fetch', (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const { pathname } = new URL(request.url);
  return new Response(`hello from JavaScript: ${request.method} ${pathname}\n`, {
    headers: { 'content-type': 'text/plain' },
  });
}

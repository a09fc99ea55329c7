// Libraries that the page holds packed: the import of one gives its module.
async function library(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = new Blob([await new Response(unpacked).arrayBuffer()], { type: "text/javascript" });
  const url = URL.createObjectURL(script);
  const imported = await import(url);
  URL.revokeObjectURL(url);
  return imported;
}

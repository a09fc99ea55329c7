// DataTables, which the page holds packed.
async function dataTables() {
  const bytes = Uint8Array.from(atob(document.getElementById("tables-bundle").textContent), (c) => c.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = new Blob([await new Response(unpacked).arrayBuffer()], { type: "text/javascript" });
  const url = URL.createObjectURL(script);
  const { default: DataTable } = await import(url);
  URL.revokeObjectURL(url);
  return DataTable;
}

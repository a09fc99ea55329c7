// The page is complete without this: it makes the table sortable, opens what a link names, and everything for print.
function openLinked() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
}

async function table() {
  const { default: DataTable } = await library("tables-bundle");
  new DataTable("#task-table", {
    paging: false, info: false, order: [], autoWidth: false,
    layout: { topStart: "search", topEnd: null, bottomStart: null, bottomEnd: null },
    language: { search: "", searchPlaceholder: "Filter tasks" },
    initComplete: () => document.querySelector(".dt-search input").setAttribute("aria-label", "Filter tasks"),
    columnDefs: [{ targets: [-2, -1], columnControl: [["searchList"]] }],
  });
}

const closed = [];
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) { details.open = true; closed.push(details); }
  for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
});
window.addEventListener("afterprint", () => { for (const details of closed.splice(0)) details.open = false; });
window.addEventListener("hashchange", openLinked);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const scheme = () => document.documentElement.classList.toggle("dark", dark.matches); // DataTables has rules of its own for it
dark.addEventListener("change", scheme);
scheme();
document.documentElement.classList.add("scripted");
await table();
openLinked();
document.documentElement.dataset.ready = "yes";

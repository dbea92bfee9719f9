// Search results: a name that has all the words asked for stands first, a function before the
// result that it returns, the shorter name before the longer one. Other numbers are Sphinx's own.

var Scorer = {
  score: ([page, , , , score]) => {
    const words = new URLSearchParams(location.search).get("q").toLowerCase().match(/[a-z0-9]+/g) ?? [];
    const name = page.startsWith("api/generated/") ? page.split(".").pop() : "";
    const parts = name.replace(/([a-z])([A-Z])/g, "$1_$2").toLowerCase().split("_");
    const isNamed = words.length && words.every((word) => parts.includes(word));
    return score + (isNamed ? (name === name.toLowerCase() ? 200 : 100) - name.length : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};

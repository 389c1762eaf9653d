// Where a walk has come to. Keys and clicks come faster than Python answers, and each of them counts from what was asked
// for last, not from what is shown: otherwise two quick ones would ask for the same place, and one of them would be lost.

function walkFrom(W = {asked: []}) {
  return Object.assign(W, {
    // Python shows a place: one that was asked for, with what came before it, or somebody else's choice (a slider, Back).
    shown(at) {
      if (at !== W.at) W.asked = W.asked.slice(W.asked.lastIndexOf(at) + 1 || W.asked.length);
      W.at = at;
    },
    place: () => W.asked.at(-1) ?? W.at,
    ask(at) { W.asked.push(at); },
  });
}

/* Time along a plot: idle time is cut short, so that what happened has the room. */

/** So long, against the usual pause and against the whole, is idle. */
const USUAL = 4, WHOLE = 0.08;
/** What one idle time takes of the width, and all of them together. */
const ONE = 0.05, ALL = 0.3;
const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND,
  30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR,
  6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY, 365 * DAY];

/** Return how long that is, such as `16 h`, `3 min`, `2.5 s`. */
export function lasting(ms) {
  const [unit, name] = ms >= 2 * DAY ? [DAY, "days"] : ms >= HOUR ? [HOUR, "h"] : ms >= MINUTE ? [MINUTE, "min"] :
    ms >= SECOND ? [SECOND, "s"] : [1, "ms"];
  return `${Number((ms / unit).toFixed(ms < 10 * unit ? 1 : 0))} ${name}`;
}

/** Return the name of the browser's time zone at that moment, such as `UTC` or `GMT+1`. */
export function zone(ms) {
  const parts = new Intl.DateTimeFormat("en-US", { timeZoneName: "short" }).formatToParts(new Date(ms));
  return parts.find((part) => part.type === "timeZoneName").value;
}

/**
 * Return the pieces of time from the first to the last of `times` (milliseconds, sorted), each with its place
 * from 0 to 1: `{from, to, x, width, idle}`.
 */
function pieces(times) {
  const first = times[0], last = times.at(-1);
  if (last === first) {  // It begins with what there is.
    return [{ from: first, to: first + SECOND, x: 0, width: 1, idle: false }];
  }
  const pauses = times.slice(1).map((at, place) => at - times[place]).filter((pause) => pause > 0);
  const usual = [...pauses].sort((a, b) => a - b)[Math.floor((pauses.length - 1) / 2)];
  const found = [];
  times.slice(1).forEach((at, place) => {
    const from = times[place], pause = at - from;
    const idle = pause > USUAL * usual && pause > WHOLE * (last - first);
    if (found.length && !idle && !found.at(-1).idle) {
      found.at(-1).to = at;
    } else if (pause > 0) {
      found.push({ from, to: at, idle });
    }
  });
  const idle = found.filter((piece) => piece.idle).length;
  const busy = found.reduce((sum, piece) => sum + (piece.idle ? 0 : piece.to - piece.from), 0);
  const each = idle ? busy ? Math.min(ONE, ALL / idle) : 1 / idle : 0;
  let x = 0;
  for (const piece of found) {
    piece.x = x;
    piece.width = piece.idle ? each : (piece.to - piece.from) / busy * (1 - each * idle);
    x += piece.width;
  }
  return found;
}

/** Return where each moment of a run stands in its plot, from 0 to 1. */
export function timeline(times) {
  const all = pieces(times), first = all[0].from, last = all.at(-1).to;
  const of = (at) => all.find((piece) => at <= piece.to) || all.at(-1);
  const place = (at) => {
    const piece = of(at);
    return piece.x + (at - piece.from) / (piece.to - piece.from) * piece.width;
  };
  return {
    place,
    idle: all.filter((piece) => piece.idle),
    /** Return the moment at a place. */
    moment(x) {
      const piece = all.find((one) => x <= one.x + one.width) || all.at(-1);
      return piece.from + Math.min(1.5, Math.max(-0.5, (x - piece.x) / piece.width)) * (piece.to - piece.from);
    },
    /** Return what is written at the axis, when `room` of it is needed for each (0 to 1): `{place, text}`. */
    labels(room) {
      const busy = all.filter((piece) => !piece.idle), widest = busy.length
        ? busy.reduce((one, other) => (other.width > one.width ? other : one)) : all[0];
      const least = (widest.to - widest.from) / widest.width * room;
      const step = STEPS.find((one) => one >= least) || Math.ceil(least / (365 * DAY)) * 365 * DAY;
      const shift = new Date(first).getTimezoneOffset() * MINUTE;
      const found = [];
      for (const piece of busy) {
        for (let at = Math.ceil((piece.from - shift) / step) * step + shift; at <= piece.to; at += step) {
          if (!found.length || place(at) - place(found.at(-1)) >= room) {
            found.push(at);
          }
        }
      }
      const ticks = found.length ? found : [first];
      return ticks.map((at, number) => ({ place: place(at), text: written(at, step, ticks[number - 1]) }));
    },
  };
}

/** Write a moment as exactly as steps need it, with day and year where those of the one before are others. */
function written(at, step, before) {
  const date = new Date(at), last = before === undefined ? null : new Date(before);
  const digits = step < 10 ? 3 : step < 100 ? 2 : step < SECOND ? 1 : 0;
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit",
    ...(step < MINUTE && { second: "2-digit" }), ...(digits && { fractionalSecondDigits: digits }) });
  const year = last && last.getFullYear() !== date.getFullYear() && { year: "numeric" };
  const day = last?.toDateString() === date.toDateString() ? "" :
    `\n${date.toLocaleDateString("en-US", { month: "short", day: "numeric", ...year })}`;
  return time + day;
}

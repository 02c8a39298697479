/**
 * The shapes that cross module boundaries. Names with a unit carry it: `_bytes`, `_ms` (wall clock since 1970), `_ns`.
 * Missing is null, never 0.
 *
 * @typedef {"live" | "silent" | "finished" | "stopped" | "failed" | "died"} RunState
 *
 * @typedef {object} RunSummary
 * @property {string} id
 * @property {string} project
 * @property {string} name
 * @property {string[]} tags
 * @property {RunState} state
 * @property {string} host
 * @property {number} pid
 * @property {number} sources
 * @property {string | null} main_source whose figures these are
 * @property {number} created_ms
 * @property {number | null} last_ms
 * @property {number | null} ended_ms
 * @property {string | null} phase
 * @property {number | null} epoch from 0
 * @property {number | null} epochs
 * @property {number | null} batch over the whole run, from 0
 * @property {number | null} step within the epoch, from 0
 * @property {number | null} steps_per_epoch
 * @property {number | null} rss_bytes
 * @property {number | null} peak_bytes the largest so far
 * @property {number | null} swap_bytes
 * @property {number | null} limit_bytes
 * @property {string | null} limit_kind
 * @property {number | null} working_set_bytes
 * @property {number | null} headroom_bytes
 * @property {number} samples
 * @property {{type: string | null, message: string | null} | null} outcome
 * @property {Verdict | null} verdict null while nothing ended that matters to the run
 * @property {Tightest | null} tightest null where that is the main source
 * @property {string | null} trouble "hung" or "critical", of a source that lives
 *
 * @typedef {Object<string, string | number | null>} Detail
 *
 * @typedef {object} Verdict
 * @property {string} ending what happened: an open list
 * @property {string} grade how sure it is: an open list
 * @property {string} text
 * @property {boolean} inferred by the server, from silence
 * @property {string} source whose it is
 * @property {Detail} [detail] all that the agent said; in a run's detail only
 *
 * @typedef {object} Tightest the source with the smallest share of its limit left
 * @property {string} id
 * @property {string} host
 * @property {number | null} rank
 * @property {number} limit_bytes
 * @property {number} headroom_bytes
 * @property {number} headroom_share
 *
 * @typedef {object} Gpu
 * @property {number} device
 * @property {string} uuid
 * @property {string} name
 * @property {number | null} total_bytes
 * @property {number | null} [index] the card's number
 * @property {string | null} [instance] of a MIG slice
 * @property {number | null} [ordinal] the framework's number for it
 *
 * @typedef {{kind: string, limit_bytes: number, used_bytes: number, binds: boolean}} Limit
 * @typedef {{pid: number, name: string, role: string, rss_bytes: number | null, swap_bytes: number | null}} Process
 *
 * @typedef {object} Status what matters only as of now
 * @property {number} time_ms
 * @property {Limit[]} limits
 * @property {Process[]} processes
 * @property {string | null} pressure whose PSI the samples carry: "cgroup /job" or "system"
 * @property {number | null} hung_since_ms the last batch end, where nothing has gone on since
 *
 * @typedef {object} SourceDetail
 * @property {string} id
 * @property {string} host
 * @property {number} pid
 * @property {string} kind callback, watch, run, attach: an open list
 * @property {RunState} state
 * @property {number | null} rank
 * @property {string | null} backend
 * @property {Gpu[]} gpus
 * @property {string | null} gpu_note
 * @property {number | null} watermark
 * @property {string | null} phase
 * @property {number | null} epoch
 * @property {number | null} batch
 * @property {number | null} step
 * @property {number | null} rss_bytes
 * @property {number | null} peak_bytes
 * @property {number | null} swap_bytes
 * @property {number | null} limit_bytes
 * @property {string | null} limit_kind
 * @property {number | null} working_set_bytes
 * @property {number | null} headroom_bytes
 * @property {Verdict | null} verdict
 * @property {Status | null} status
 *
 * @typedef {object} RunEvent
 * @property {string} source
 * @property {number} seq
 * @property {string} kind
 * @property {number} time_ms
 * @property {number | null} epoch
 * @property {number | null} batch
 * @property {Detail} detail
 *
 * @typedef {RunSummary & {sources_detail: SourceDetail[], events: RunEvent[]}} RunDetail
 *
 * @typedef {(number | null)[]} Column
 * @typedef {"batch" | "time"} XAxis
 * @typedef {"15m" | "1h" | "all"} WindowName
 * @typedef {[number, number]} Range
 *
 * @typedef {object} Columns
 * @property {Column} batch
 * @property {number[]} time_ms
 * @property {number[]} seq
 * @property {number[]} kind
 * @property {(string | null)[]} phase
 * @property {Column} epoch
 * @property {Column} step
 * @property {Column} steps
 *
 * @typedef {{last: Column, min: Column, max: Column}} Metric where bucket is 1 the three are one and the same array
 *
 * @typedef {object} Ticks what only the agent's clock measures, whatever x is
 * @property {{batch: Column, time_ms: number[], seq: number[]}} columns batch: the last that had ended
 * @property {Object<string, Metric>} metrics
 *
 * @typedef {object} GpuColumns NVML's readings and the allocator's, mixed: each lacks what the other has
 * @property {number} device
 * @property {number[]} time_ms
 * @property {Column} batch
 * @property {Column} used_bytes
 * @property {Column} total_bytes
 * @property {Column} process_bytes
 * @property {Column} utilization_percent
 * @property {Column} reserved_bytes
 * @property {Column} allocated_bytes
 * @property {Column} allocated_peak_bytes
 * @property {Column} pool_bytes
 * @property {Column} allocator_limit_bytes
 * @property {Column} ecc_errors
 *
 * @typedef {object} Series
 * @property {string} source
 * @property {XAxis} x
 * @property {number} bucket raw rows per point
 * @property {number} watermark
 * @property {Columns} columns
 * @property {Object<string, Metric>} metrics
 * @property {Ticks} ticks
 * @property {GpuColumns[]} gpus
 *
 * @typedef {object} RowsMessage
 * @property {"rows"} type
 * @property {string} run
 * @property {string} source
 * @property {number} from_seq of all that was stored, whatever is left of it here
 * @property {number} to_seq
 * @property {number} rows samples that were stored; where they are many, only those are here that a screen shows
 * @property {Columns} columns
 * @property {Object<string, Column>} metrics
 * @property {{columns: Object<string, Column>, metrics: Object<string, Column>}} ticks
 * @property {GpuColumns[]} gpus
 * @property {RunEvent[]} events
 * @property {Status | null} status null: none came
 * @property {RunSummary} summary
 * @property {number} sent_ms
 *
 * @typedef {"connecting" | "open" | "lost" | "denied"} Connection
 *
 * @typedef {Object<string, string>} Palette colours by the name of their CSS variable
 */

export {};

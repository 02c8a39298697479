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
 *
 * @typedef {object} SourceDetail
 * @property {string} id
 * @property {string} host
 * @property {number} pid
 * @property {number | null} rank
 * @property {string | null} backend
 * @property {{device: number, uuid: string, name: string, total_bytes: number | null}[]} gpus
 * @property {string | null} gpu_note
 * @property {number | null} watermark
 *
 * @typedef {object} RunEvent
 * @property {string} source
 * @property {number} seq
 * @property {string} kind
 * @property {number} time_ms
 * @property {number | null} epoch
 * @property {number | null} batch
 * @property {Object<string, string | number | null>} detail
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
 * @typedef {object} GpuColumns
 * @property {number} device
 * @property {number[]} time_ms
 * @property {Column} batch
 * @property {Column} used_bytes
 * @property {Column} total_bytes
 * @property {Column} process_bytes
 * @property {Column} utilization_percent
 *
 * @typedef {object} Series
 * @property {string} source
 * @property {XAxis} x
 * @property {number} bucket raw rows per point
 * @property {number} watermark
 * @property {Columns} columns
 * @property {Object<string, Metric>} metrics
 * @property {GpuColumns[]} gpus
 *
 * @typedef {object} RowsMessage
 * @property {"rows"} type
 * @property {string} run
 * @property {string} source
 * @property {number} from_seq
 * @property {number} to_seq
 * @property {Columns} columns
 * @property {Object<string, Column>} metrics
 * @property {GpuColumns[]} gpus
 * @property {RunEvent[]} events
 * @property {RunSummary} summary
 * @property {number} sent_ms
 *
 * @typedef {"connecting" | "open" | "lost" | "denied"} Connection
 *
 * @typedef {Object<string, string>} Palette colours by the name of their CSS variable
 */

export {};

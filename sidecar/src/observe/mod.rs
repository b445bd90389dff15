//! What is told of every connection and request: records, metrics and trace context. Facts that others established enter,
//! lines and numbers leave. Nothing here decides, and nothing here ever blocks a worker.

mod denials;
mod journal;
mod known;
mod meters;
mod metrics;
mod process;
mod record;
mod series;
mod text;
mod trace;
mod user;

pub use denials::{Denial, Denials, Keeping, Made};
pub use journal::{Journal, JournalOutput};
pub use known::KnownWorkloads;
pub use meters::{ConnectionMeter, DecisionLabels, RequestLabels, RequestMeter};
pub use metrics::Metrics;
pub use record::{
    Decision, Destination, Direction, Http, Kind, Need, Proven, Record, Source, Tcp, Timing, Tls, User,
    Would, decision_id,
};
pub use series::Label;
pub use text::Text;
pub use trace::TraceParent;
pub use user::{UserKey, UserKeyError, UserLog, UserMode, UserName};

//! A copy of state and keys, made beside them while the authority runs.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::admin::Refused;
use crate::config::Config;
use crate::server::backup;

const PREFIX: &str = "backup-";

/// Where backups are made, and of what.
pub struct Backups {
    data_dir: PathBuf,
    trust_domain: String,
}

impl Backups {
    /// Backups of an authority; what earlier ones left is removed.
    pub fn new(config: &Config) -> Self {
        let new = Self {
            data_dir: config.data_dir.clone(),
            trust_domain: config.trust_domain.to_string(),
        };
        new.remove_left();
        new
    }

    /// Makes one, and says where.
    pub async fn make(&self) -> Result<Value, Refused> {
        let mut suffix = [0; 8];
        aws_lc_rs::rand::fill(&mut suffix).map_err(|error| Refused::internal(&error))?;
        let to = self.data_dir.join(format!("{PREFIX}{}.tmp", hex::encode(suffix)));
        let made = backup::write(&self.data_dir, &self.trust_domain, &to).await;
        let summary = made.map_err(|error| Refused {
            internal: true,
            ..Refused::new(error.to_string(), error.hint())
        })?;
        Ok(json!({"file": to, "summary": summary}))
    }

    fn remove_left(&self) {
        let Ok(entries) = std::fs::read_dir(&self.data_dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".tmp"))
            {
                let _gone_already = std::fs::remove_file(entry.path());
            }
        }
    }
}

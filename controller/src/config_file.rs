//! The configuration file, read again when it changes.
//!
//! One task looks at the file; it can be dropped at any await. A file that is refused leaves the last good one in
//! force. Must never parse; the api crate does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trunkline_api::{ConfigError, ControllerConfig};

use crate::metrics::Metrics;

/// Between two looks; kubelet itself takes up to 90 s to renew a mounted `ConfigMap`.
const INTERVAL: Duration = Duration::from_secs(5);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not readable.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not acceptable.
    #[error("{}/{error}", directory.display())]
    Refused {
        /// Where the file is.
        directory: PathBuf,
        /// File, line, key, problem.
        error: ConfigError,
    },
}

/// Reads the file.
pub fn load(path: &Path) -> Result<ControllerConfig, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    ControllerConfig::parse(&text).map_err(|error| {
        let directory = path.parent().unwrap_or(path).to_owned();
        LoadError::Refused { directory, error }
    })
}

/// Looks at the file for ever; what is accepted is sent.
pub async fn follow(path: PathBuf, config: watch::Sender<Arc<ControllerConfig>>, metrics: Metrics) {
    let mut last_error = String::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        match load(&path) {
            Ok(next) => {
                last_error.clear();
                let changed = config.send_if_modified(|current| {
                    let changed = **current != next;
                    *current = Arc::new(next.clone());
                    changed
                });
                if changed {
                    say_changes(&next);
                }
            }
            Err(error) => {
                let text = crate::lease::Chain(&error).to_string();
                if text != last_error {
                    tracing::error!(error = %text, "the configuration is refused; the last good one stays in force");
                    metrics.config_error();
                    last_error = text;
                }
            }
        }
    }
}

fn say_changes(config: &ControllerConfig) {
    tracing::info!(
        antrea_ipam = config.gates.antrea_ipam,
        "the configuration has changed; ports and leaseDurationSeconds take effect with the next start"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_refused_with_file_line_and_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("trunkline-controller.conf");
        std::fs::write(&path, "featureGates:\n  AntreaIPAM: true\nipamPort: 99999\n").expect("written");
        let text = load(&path).expect_err("refused").to_string();
        assert!(text.contains("trunkline-controller.conf:3: ipamPort"), "{text}");
        std::fs::write(&path, "featureGates:\n  AntreaIPAM: true\n").expect("written");
        assert!(load(&path).expect("accepted").gates.antrea_ipam);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nonexistent/trunkline-controller.conf")).expect_err("no such file");
        assert_eq!(error.to_string(), "cannot read /nonexistent/trunkline-controller.conf");
    }
}

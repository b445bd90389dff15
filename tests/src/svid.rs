//! SVIDs in hands where they should not be: the identity of a pod, fetched from the Workload API as its sidecar does, and laid
//! into another pod. What the mesh does with a peer that is genuine and hostile can be tried with it.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::{Mesh, hopguard_bin, succeeded};

impl Mesh {
    /// Lays `svid.0.pem`, `svid.0.key` and `bundle.0.pem` of the identity of pod `of` into a folder in `pod`; returns the folder.
    ///
    /// # Errors
    /// The Workload API gave nothing, or the files could not be written.
    pub fn svid(&self, of: &str, pod: &str) -> Result<String, String> {
        let program = hopguard_bin();
        let program = program.to_str().ok_or("a path that is no text")?;
        let (here, there) = (format!("stolen-{of}"), format!("/tmp/svid-{of}"));
        fs::create_dir_all(self.file(&here)).map_err(|e| e.to_string())?;
        let socket = format!("unix:///run/hopguard/workload/{of}/workload.sock");
        let folder = format!("/run/hopguard/{here}");
        let fetch = [program, "svid", "fetch", "--socket", &socket, "--write", &folder];
        succeeded(self.exec_root("fabric", &fetch)?)?;
        for name in ["svid.0.pem", "svid.0.key", "bundle.0.pem"] {
            let bytes = fs::read(self.file(&here).join(name)).map_err(|e| format!("{name}: {e}"))?;
            let script = format!("mkdir -p {there} && cat > {there}/{name}");
            let mut command = self.command(pod, &["sh", "-c", &script]);
            let mut child = command.stdin(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(&bytes).map_err(|e| e.to_string())?;
            }
            let status = child.wait().map_err(|e| e.to_string())?;
            if !status.success() {
                return Err(format!("{name} in {pod}: {status}"));
            }
        }
        Ok(there)
    }

    /// Opens a tunnel to `address` from `pod`, by the SVID in the folder `svid` there, and asks what `requests` say
    /// (`METHOD AUTHORITY [TEXT]`); one answer each.
    ///
    /// # Errors
    /// There was no tunnel.
    pub fn tunnel(
        &self,
        pod: &str,
        svid: &str,
        address: &str,
        requests: &[&str],
    ) -> Result<Vec<Value>, String> {
        let program = hopguard_bin().with_file_name("hopguard-peer");
        let program = program.to_str().ok_or("a path that is no text")?;
        let mut line = vec![program, "--svid", svid, "--tunnel", address];
        line.extend(requests);
        let said = succeeded(self.exec(pod, &line)?)?;
        said.lines()
            .map(|line| serde_json::from_str(line).map_err(|e| format!("{e}: {line}")))
            .collect()
    }
}

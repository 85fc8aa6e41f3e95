//! The baseline of `ovs-port-add/1000`: one transaction written by hand over the socket, and a wait for the ports.
//!
//! The least that can do it: blocking, no replica, no merging, no reconnecting. Knows nothing of our client.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::de::{IoRead, StreamDeserializer};
use serde_json::{Value, json};

/// Longest silence of the server.
const PATIENCE: Duration = Duration::from_mins(1);

/// A port as it is to be in the database.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Name of port and interface; letters and digits only.
    pub(super) name: String,
    /// Access VLAN.
    pub(super) tag: u16,
    /// `Port.external_ids`.
    pub(super) external_ids: BTreeMap<String, String>,
}

/// A connection that is told of every interface's `ofport`.
pub(super) struct Writer {
    stream: UnixStream,
    messages: StreamDeserializer<'static, IoRead<BufReader<UnixStream>>, Value>,
    ofports: HashMap<String, i64>,
}

impl Writer {
    /// Connects and begins to watch.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).context("bounding a read")?;
        let reader = stream.try_clone().context("duplicating the connection")?;
        let messages = serde_json::Deserializer::from_reader(BufReader::new(reader)).into_iter();
        let mut writer = Self { stream, messages, ofports: HashMap::new() };
        let tables = json!({"Interface": {"columns": ["name", "ofport"]}});
        let initial = writer.call("monitor", &json!(["Open_vSwitch", "ofports", tables]))?;
        writer.learn(&initial);
        Ok(writer)
    }

    /// Adds all these ports to a bridge in one transaction, and returns when every one has its `ofport`.
    pub(super) fn add_ports(&mut self, bridge: &str, rows: &[Row]) -> Result<()> {
        let results = self.call("transact", &transaction(bridge, rows))?;
        let error = results.as_array().into_iter().flatten().find(|result| result["error"].is_string());
        if let Some(error) = error {
            bail!("the transaction was refused: {error}");
        }
        while !rows.iter().all(|row| self.ofports.get(&row.name).is_some_and(|ofport| *ofport > 0)) {
            self.step()?;
        }
        Ok(())
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        self.stream.write_all(&serde_json::to_vec(message)?).context("writing to ovsdb-server")
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.send(&json!({"method": method, "params": params, "id": method}))?;
        loop {
            if let Some(mut answer) = self.step()?.filter(|message| message["id"] == method) {
                if answer["error"].is_null() {
                    return Ok(answer["result"].take());
                }
                bail!("{method} was refused: {}", answer["error"]);
            }
        }
    }

    /// Reads one message; gives it back unless it was a notice or a probe.
    fn step(&mut self) -> Result<Option<Value>> {
        let message = self.messages.next().context("ovsdb-server has hung up")?;
        let message = message.context("reading from ovsdb-server")?;
        match message["method"].as_str() {
            Some("update") => self.learn(&message["params"][1]),
            Some("echo") => {
                let answer = json!({"id": message["id"], "result": message["params"], "error": null});
                self.send(&answer)?;
            }
            _ => return Ok(Some(message)),
        }
        Ok(None)
    }

    fn learn(&mut self, updates: &Value) {
        for row in updates["Interface"].as_object().into_iter().flatten().map(|(_, row)| &row["new"]) {
            if let (Some(name), Some(ofport)) = (row["name"].as_str(), row["ofport"].as_i64()) {
                self.ofports.insert(name.to_owned(), ofport);
            }
        }
    }
}

/// The parameters of `transact` that make these ports.
fn transaction(bridge: &str, rows: &[Row]) -> Value {
    let mut params = vec![json!("Open_vSwitch")];
    for row in rows {
        let interface = format!("i_{}", row.name);
        let ids: Vec<_> = row.external_ids.iter().map(|(key, value)| json!([key, value])).collect();
        params.push(json!({"op": "insert", "table": "Interface", "uuid-name": interface,
            "row": {"name": row.name, "type": ""}}));
        params.push(json!({"op": "insert", "table": "Port", "uuid-name": format!("p_{}", row.name),
            "row": {"name": row.name, "interfaces": ["named-uuid", interface], "tag": row.tag,
                "vlan_mode": "access", "external_ids": ["map", ids], "other_config": ["map", []]}}));
    }
    let ports: Vec<_> = rows.iter().map(|row| json!(["named-uuid", format!("p_{}", row.name)])).collect();
    params.push(json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]],
        "mutations": [["ports", "insert", ["set", ports]]]}));
    Value::Array(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transaction_makes_two_rows_a_port_and_hangs_them_up_at_once() {
        let row = |name: &str| Row {
            name: name.to_owned(),
            tag: 7,
            external_ids: [("k".to_owned(), "v".to_owned())].into(),
        };
        let params = transaction("br", &[row("a"), row("b")]);
        let params = params.as_array().expect("parameters");
        assert_eq!(params.len(), 1 + 2 * 2 + 1);
        assert_eq!(params[2]["row"]["external_ids"], json!(["map", [["k", "v"]]]));
        assert_eq!(params[2]["row"]["interfaces"], json!(["named-uuid", "i_a"]));
        let set = json!(["set", [["named-uuid", "p_a"], ["named-uuid", "p_b"]]]);
        assert_eq!(params[5]["mutations"], json!([["ports", "insert", set]]));
    }
}

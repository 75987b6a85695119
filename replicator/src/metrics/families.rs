//! Which figures there are, and what a status says of each.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use kemari_control::{Checkpoints, Figure, Replication, Role, Status};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// The families, filled anew for each reading.
#[derive(Default)]
pub(super) struct Families {
    up: Gauges,
    primary: Gauges,
    protected: Gauges,
    gate_open: Gauges,
    generation: Gauges,
    epoch: Gauges,
    commit_age: Gauges,
    held_bytes: Gauges,
    held_outputs: Gauges,
    resync_ratio: Gauges,
    checkpoint_seconds: Gauges,
    checkpoint_pages: Gauges,
    checkpoint_bytes: Gauges,
    checkpoints: Counters,
    mended_pages: Counters,
    nic_frames: Counters,
    nic_bytes: Counters,
    nic_errors: Counters,
    disk_requests: Counters,
    disk_bytes: Counters,
    disk_errors: Counters,
}

impl Families {
    /// A replicator that does not answer.
    pub(super) fn add_silent(&mut self, socket: &Path) {
        self.up.get_or_create(&of_socket(socket)).set(0.0);
    }

    /// What one replicator says.
    pub(super) fn add(&mut self, socket: &Path, status: &Status) {
        self.up.get_or_create(&of_socket(socket)).set(1.0);
        let guest = Guest(status);
        let set = |family: &Gauges, value: f64| {
            family.get_or_create(&guest.labels()).set(value);
        };
        let flag = |family: &Gauges, is: bool| set(family, f64::from(u8::from(is)));
        let is_primary = status.role == Role::Primary;
        flag(&self.primary, is_primary);
        // On a standby: in sync, so that it could be promoted.
        flag(&self.protected, matches!(status.replication, Replication::Protected | Replication::InSync));
        if let Some(number) = status.generation.as_deref().and_then(number_of) {
            set(&self.generation, number as f64);
        }
        if let Some(image) = &status.image {
            set(&self.epoch, image.epoch as f64);
        }
        if let Some(age_ms) = status.commit_age_ms {
            set(&self.commit_age, age_ms as f64 / 1e3);
        }
        if let Some(gate) = &status.gate {
            flag(&self.gate_open, gate.open.is_some());
            set(&self.held_bytes, gate.held_bytes as f64);
            for (kind, held) in
                [("frame", gate.held_frames), ("write", gate.held_writes), ("console", gate.held_console)]
            {
                self.held_outputs.get_or_create(&guest.labels_with("kind", kind)).set(held as f64);
            }
        }
        if let Some(sync) = &status.sync {
            set(&self.resync_ratio, sync.done_pages as f64 / sync.total_pages.max(1) as f64);
        }
        if let Some(checkpoints) = &status.checkpoints {
            self.add_checkpoints(&guest, checkpoints);
        }
        count(&self.mended_pages, guest.labels(), status.mended_pages);
        self.add_devices(&guest, status);
    }

    fn add_checkpoints(&self, guest: &Guest<'_>, checkpoints: &Checkpoints) {
        count(&self.checkpoints, guest.labels(), checkpoints.count);
        let quantiles = |family: &Gauges, labels: Labels, figure: Figure, unit: f64| {
            for (quantile, value) in [("0.5", figure.p50), ("0.99", figure.p99)] {
                let labels = labels.iter().cloned().chain([("quantile", quantile.to_owned())]).collect();
                family.get_or_create(&labels).set(value as f64 * unit);
            }
        };
        for (step, figure) in [
            ("pause", checkpoints.pause_us),
            ("encode", checkpoints.encode_us),
            ("commit", checkpoints.commit_us),
            ("hold", checkpoints.hold_us),
        ] {
            quantiles(&self.checkpoint_seconds, guest.labels_with("step", step), figure, 1e-6);
        }
        quantiles(&self.checkpoint_pages, guest.labels(), checkpoints.dirty_pages, 1.0);
        quantiles(&self.checkpoint_bytes, guest.labels(), checkpoints.sent_bytes, 1.0);
    }

    fn add_devices(&self, guest: &Guest<'_>, status: &Status) {
        for nic in &status.nics {
            let labels = |way| guest.device_labels("tap", &nic.tap, "direction", way);
            count(&self.nic_frames, labels("sent"), nic.sent_frames);
            count(&self.nic_frames, labels("received"), nic.received_frames);
            count(&self.nic_bytes, labels("sent"), nic.sent_bytes);
            count(&self.nic_bytes, labels("received"), nic.received_bytes);
            count(&self.nic_errors, guest.labels_with("tap", &nic.tap), nic.errors);
        }
        for disk in &status.disks {
            let labels = |operation| guest.device_labels("disk", &disk.path, "operation", operation);
            count(&self.disk_requests, labels("read"), disk.reads);
            count(&self.disk_requests, labels("write"), disk.writes);
            count(&self.disk_requests, labels("flush"), disk.flushes);
            count(&self.disk_bytes, labels("read"), disk.read_bytes);
            count(&self.disk_bytes, labels("write"), disk.written_bytes);
            count(&self.disk_errors, guest.labels_with("disk", &disk.path), disk.errors);
        }
    }

    /// All of them, in the text format that Prometheus reads (OpenMetrics 1.0).
    pub(super) fn text(&self) -> String {
        let mut registry = Registry::with_prefix("kemari");
        self.register_gauges(&mut registry);
        self.register_counters(&mut registry);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn register_gauges(&self, registry: &mut Registry) {
        for (name, help, family) in [
            ("up", "Whether the replicator answers at its control socket", &self.up),
            ("primary", "Whether the guest runs here", &self.primary),
            ("protected", "Whether the standby's commits gate the output, or this standby is in sync", &self.protected),
            ("gate_open", "Whether output leaves unheld, by consent", &self.gate_open),
            ("generation", "Number of the newest generation known here", &self.generation),
            ("committed_epoch", "Last epoch of the newest committed image", &self.epoch),
            ("commit_age_seconds", "Time since the newest commit", &self.commit_age),
            ("held_bytes", "Output that waits for a commit", &self.held_bytes),
            ("held_outputs", "The same, counted by kind", &self.held_outputs),
            ("resync_ratio", "How much of a resync is done", &self.resync_ratio),
            ("checkpoint_seconds", "What the newest checkpoints took, step by step", &self.checkpoint_seconds),
            ("checkpoint_pages", "Pages in the newest checkpoints", &self.checkpoint_pages),
            ("checkpoint_bytes", "Pages and state of the newest checkpoints", &self.checkpoint_bytes),
        ] {
            registry.register(name, help, family.clone());
        }
    }

    fn register_counters(&self, registry: &mut Registry) {
        for (name, help, family) in [
            ("checkpoints", "Checkpoints cut since this node became primary", &self.checkpoints),
            ("mended_pages", "Pages lost to hardware errors and fetched from the standby", &self.mended_pages),
            ("nic_frames", "Frames of a network card", &self.nic_frames),
            ("nic_bytes", "Bytes of a network card", &self.nic_bytes),
            ("nic_errors", "Frames that were refused or did not fit", &self.nic_errors),
            ("disk_requests", "Requests completed by a disk", &self.disk_requests),
            ("disk_bytes", "Bytes read from and written to a disk", &self.disk_bytes),
            ("disk_errors", "Requests that failed", &self.disk_errors),
        ] {
            registry.register(name, help, family.clone());
        }
    }
}

/// Whose figures they are.
struct Guest<'a>(&'a Status);

impl Guest<'_> {
    fn labels(&self) -> Labels {
        vec![("guest", self.0.guest.clone()), ("node", self.0.node.clone())]
    }

    fn labels_with(&self, name: &'static str, value: &str) -> Labels {
        self.labels().into_iter().chain([(name, value.to_owned())]).collect()
    }

    fn device_labels(&self, device: &'static str, which: &str, name: &'static str, value: &str) -> Labels {
        self.labels_with(device, which).into_iter().chain([(name, value.to_owned())]).collect()
    }
}

fn of_socket(socket: &Path) -> Labels {
    vec![("socket", socket.display().to_string())]
}

fn count(family: &Counters, labels: Labels, value: u64) {
    family.get_or_create(&labels).inc_by(value);
}

/// The number in `number-id`.
fn number_of(generation: &str) -> Option<u64> {
    generation.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let figure = r#"{"last":1,"p50":250,"p99":1000}"#;
        let text = format!(
            r#"{{"guest":"web","node":"alpha","pid":1,"role":"primary","generation":"7-00ff","standing":"primary",
            "authority":null,"replication":"protected","peer":"beta","trouble":null,
            "image":{{"generation":"7-00ff","epoch":40}},"commit_age_ms":1500,"not_promotable":null,"sync":null,
            "gate":{{"epoch":41,"open":null,"held_frames":2,"held_writes":1,"held_console":0,"held_bytes":3000}},
            "checkpoints":{{"count":40,"per_second":9.5,"pause_us":{figure},"stop_us":{figure},"dirty_pages":{figure},
            "sent_bytes":{figure},"encode_us":{figure},"commit_us":{figure},"hold_us":{figure}}},
            "nics":[{{"tap":"tap0","sent_frames":5,"sent_bytes":500,"received_frames":6,"received_bytes":600,"errors":0}}],
            "disks":[],"console":{{"written_bytes":0,"dropped_bytes":0}}}}"#
        );
        serde_json::from_str(&text).expect("a status")
    }

    #[test]
    fn a_status_becomes_lines_that_prometheus_reads() {
        let mut families = Families::default();
        families.add(Path::new("/run/kemari/web.sock"), &status());
        families.add_silent(Path::new("/run/kemari/db.sock"));
        let text = families.text();
        for line in [
            "kemari_up{socket=\"/run/kemari/web.sock\"} 1.0",
            "kemari_up{socket=\"/run/kemari/db.sock\"} 0.0",
            "kemari_primary{guest=\"web\",node=\"alpha\"} 1.0",
            "kemari_protected{guest=\"web\",node=\"alpha\"} 1.0",
            "kemari_gate_open{guest=\"web\",node=\"alpha\"} 0.0",
            "kemari_generation{guest=\"web\",node=\"alpha\"} 7.0",
            "kemari_committed_epoch{guest=\"web\",node=\"alpha\"} 40.0",
            "kemari_commit_age_seconds{guest=\"web\",node=\"alpha\"} 1.5",
            "kemari_held_outputs{guest=\"web\",node=\"alpha\",kind=\"frame\"} 2.0",
            "kemari_checkpoint_seconds{guest=\"web\",node=\"alpha\",step=\"commit\",quantile=\"0.5\"} 0.00025",
            "kemari_checkpoints_total{guest=\"web\",node=\"alpha\"} 40",
            "kemari_nic_frames_total{guest=\"web\",node=\"alpha\",tap=\"tap0\",direction=\"received\"} 6",
            "# EOF",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} in\n{text}");
        }
    }
}

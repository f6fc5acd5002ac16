//! What docker-compose understood, as the same kind of facts.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::ours::Facts;
use crate::units::{bytes, millis, signal};

/// Where the case lies, and what it is called.
pub(crate) struct Setting<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) project: &'a str,
    pub(crate) profiles: &'a [String],
}

/// The facts of `docker-compose config`, and which of them were numbers: of those it keeps the value,
/// and loses how it was written.
pub(crate) struct Understood {
    pub(crate) facts: Facts,
    pub(crate) numbers: BTreeMap<String, f64>,
}

pub(crate) fn facts(config: &Json, setting: &Setting<'_>) -> Understood {
    let mut understood = Understood { facts: Facts::new(), numbers: BTreeMap::new() };
    for (name, service) in map(&config["services"]) {
        let own = list(&service["profiles"]);
        // It prints every service, and starts those of the profiles.
        if own.is_empty() || own.iter().any(|p| setting.profiles.contains(&text(p))) {
            let mut of = Of { understood: &mut understood, service: &name, config, setting };
            of.service(&map(&service));
        }
    }
    understood
}

struct Of<'a> {
    understood: &'a mut Understood,
    service: &'a str,
    config: &'a Json,
    setting: &'a Setting<'a>,
}

fn map(json: &Json) -> Map<String, Json> {
    json.as_object().cloned().unwrap_or_default()
}

fn list(json: &Json) -> Vec<Json> {
    json.as_array().cloned().unwrap_or_default()
}

/// A value as it would be passed on; dollar signs are doubled in what it prints.
fn text(json: &Json) -> String {
    match json {
        Json::String(text) => text.replace("$$", "$"),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

/// A list of strings, or one.
fn words(json: &Json) -> Json {
    list(json).iter().map(text).collect()
}

impl Of<'_> {
    fn put(&mut self, path: impl AsRef<str>, value: impl ToString) {
        self.understood.facts.insert(format!("{}.{}", self.service, path.as_ref()), value.to_string());
    }

    /// A value that may have been written as a number.
    fn scalar(&mut self, path: impl AsRef<str>, value: &Json) {
        if let Some(number) = value.as_f64() {
            self.understood.numbers.insert(format!("{}.{}", self.service, path.as_ref()), number);
        }
        self.put(path, text(value));
    }

    /// A path on the submitter's host, as seen from the case's directory where it is near.
    fn path(&self, path: &str) -> String {
        let above = self.setting.dir.parent().expect("a case lies in a directory");
        let path = Path::new(path);
        if let Ok(below) = path.strip_prefix(self.setting.dir) {
            return format!("./{}", below.display()).trim_end_matches('/').to_owned();
        }
        match path.strip_prefix(above) {
            Ok(beside) => format!("../{}", beside.display()),
            Err(_) => path.display().to_string(),
        }
    }

    fn service(&mut self, service: &Map<String, Json>) {
        self.put("", "");
        for (key, value) in service {
            match key.as_str() {
                "image" | "working_dir" | "container_name" | "ipc" | "user" | "init" | "network_mode"
                | "hostname" => self.put(key, text(value)),
                "entrypoint" => self.put(key, words(value)),
                "command" if list(value).is_empty() => {}
                "command" => self.put(key, words(value)),
                "environment" => self.environment(&map(value)),
                "stop_signal" => self.unless(key, &signal(&text(value)), "15"),
                "stop_grace_period" => self.unless(key, &millis(&text(value)), "10000"),
                "shm_size" => self.put(key, bytes(&text(value))),
                "mem_limit" => self.put("limits.memory", bytes(&text(value))),
                "cpus" => self.cpus(value),
                "pids_limit" if *value != -1 => self.put("limits.pids", text(value)),
                "scale" => self.unless("replicas", &text(value), "1"),
                "dns" if value.is_string() => self.put(format!("dns.{}", text(value)), ""),
                "dns" | "group_add" => {
                    list(value).iter().for_each(|v| self.put(format!("{key}.{}", text(v)), ""))
                }
                "sysctls" => map(value).iter().for_each(|(k, v)| self.scalar(format!("sysctls.{k}"), v)),
                "deploy" => self.deploy(value),
                "restart" if !has_policy(service) => self.restart(&text(value)),
                "volumes" => list(value).iter().for_each(|v| self.volume(v)),
                "tmpfs" => list(value).iter().for_each(|v| self.tmpfs(&text(v))),
                "ulimits" => map(value).iter().for_each(|(name, limit)| self.ulimit(name, limit)),
                "cap_add" => list(value).iter().for_each(|v| self.put(format!("cap_add.{}", text(v)), "")),
                "labels" => map(value).iter().for_each(|(k, v)| self.scalar(format!("labels.{k}"), v)),
                "ports" => list(value).iter().for_each(|v| self.port(v)),
                "expose" => list(value).iter().for_each(|v| self.put(format!("expose.{}", text(v)), "")),
                "extra_hosts" => self.extra_hosts(value),
                "depends_on" => {
                    for (name, depends) in map(value) {
                        self.put(format!("depends_on.{name}"), text(&depends["condition"]));
                    }
                }
                "healthcheck" => self.healthcheck(&map(value)),
                "devices" => list(value).iter().for_each(|v| self.device_file(&text(v))),
                "secrets" | "configs" => list(value).iter().for_each(|v| self.grant(key, v)),
                "build" => self.build(&map(value)),
                "x-convoke" => self.extension(&map(value)),
                _ => {}
            }
        }
    }

    fn unless(&mut self, key: &str, value: &str, default: &str) {
        if value != default {
            self.put(key, value);
        }
    }

    fn environment(&mut self, environment: &Map<String, Json>) {
        for (key, value) in environment {
            // Null is a variable that the user's environment does not have. GPU visibility is
            // Convoke's own; what becomes of it is judged by the devices.
            let ours = match key.as_str() {
                "NVIDIA_VISIBLE_DEVICES" => true,
                "CUDA_VISIBLE_DEVICES" => self.has_gpus(),
                _ => false,
            };
            if !value.is_null() && !ours {
                self.scalar(format!("environment.{key}"), value);
            }
        }
    }

    fn has_gpus(&self) -> bool {
        let deploy = &self.config["services"][self.service]["deploy"];
        !deploy["resources"]["reservations"]["devices"].is_null()
    }

    fn cpus(&mut self, cpus: &Json) {
        let cpus: f64 = text(cpus).parse().expect("a number of CPUs");
        self.put("limits.cpus", cpus * 1_000.0);
    }

    fn deploy(&mut self, deploy: &Json) {
        if !deploy["replicas"].is_null() {
            self.unless("replicas", &text(&deploy["replicas"]), "1");
        }
        let limits = &deploy["resources"]["limits"];
        if !limits["cpus"].is_null() {
            self.cpus(&limits["cpus"]);
        }
        if !limits["memory"].is_null() {
            self.put("limits.memory", bytes(&text(&limits["memory"])));
        }
        for request in list(&deploy["resources"]["reservations"]["devices"]) {
            self.devices(&request);
        }
        let policy = &deploy["restart_policy"];
        if !policy.is_null() {
            let budget = match text(&policy["condition"]).as_str() {
                "none" => "0".to_owned(),
                _ if policy["max_attempts"].is_null() => "unlimited".to_owned(),
                _ => text(&policy["max_attempts"]),
            };
            let delay =
                if policy["delay"].is_null() { "0".to_owned() } else { millis(&text(&policy["delay"])) };
            self.put("restart", format!("{budget} after {delay}"));
        }
        for constraint in list(&deploy["placement"]["constraints"]) {
            self.put(format!("constraints.{}", text(&constraint).replace(' ', "")), "");
        }
    }

    fn devices(&mut self, request: &Json) {
        let kind = if request["driver"] == "cpu" { "cpu" } else { "gpu" };
        let ids: Vec<String> = list(&request["device_ids"]).iter().map(text).collect();
        let count = match &request["count"] {
            Json::Null if ids.is_empty() => "all".to_owned(),
            Json::Null => ids.join(","),
            Json::Number(n) if n.as_i64() == Some(-1) => "all".to_owned(),
            count => text(count),
        };
        self.put("devices", format!("{kind} {count}"));
    }

    fn restart(&mut self, word: &str) {
        let budget = match word.split_once(':') {
            Some((_, times)) => times,
            None if word == "no" => "0",
            None => "unlimited",
        };
        self.put("restart", format!("{budget} after 0"));
    }

    /// What the engine is to call a volume that the file names.
    fn volume_name(&self, name: &str) -> String {
        let volume = &self.config["volumes"][name];
        match (&volume["name"], &volume["external"]) {
            (Json::String(name), _) => name.clone(),
            (_, Json::Bool(true)) => name.to_owned(),
            _ => format!("{}_{name}", self.setting.project),
        }
    }

    fn source(&self, source: &str) -> String {
        if source.starts_with('/') {
            format!("bind {}", self.path(source))
        } else {
            format!("volume {}", self.volume_name(source))
        }
    }

    fn volume(&mut self, volume: &Json) {
        let Json::String(short) = volume else {
            let target = text(&volume["target"]);
            if volume["type"] == "tmpfs" {
                let size = &volume["tmpfs"]["size"];
                let size =
                    if size.is_null() { String::new() } else { format!("size={}", bytes(&text(size))) };
                return self.put(format!("tmpfs.{target}"), size);
            }
            let mode = if volume["read_only"] == true { "ro" } else { "rw" };
            let source = self.source(&text(&volume["source"]));
            return self.put(format!("volumes.{target}"), format!("{source} {mode}"));
        };
        let parts: Vec<&str> = short.split(':').collect();
        match parts.as_slice() {
            [target] => self.put(format!("volumes.{target}"), "volume  rw"),
            [source, target, mode] => {
                let mode = if mode.split(',').any(|m| m == "ro") { "ro" } else { "rw" };
                let source = self.source(source);
                self.put(format!("volumes.{target}"), format!("{source} {mode}"));
            }
            _ => panic!("a volume of {short}"),
        }
    }

    fn tmpfs(&mut self, tmpfs: &str) {
        let (target, options) = tmpfs.split_once(':').unwrap_or((tmpfs, ""));
        let mut options: Vec<&str> = options.split(',').collect();
        options.sort_unstable();
        self.put(format!("tmpfs.{target}"), options.join(","));
    }

    fn ulimit(&mut self, name: &str, limit: &Json) {
        let (soft, hard) = match limit {
            Json::Object(both) => (text(&both["soft"]), text(&both["hard"])),
            one => (text(one), text(one)),
        };
        self.put(format!("ulimits.{name}"), format!("{soft}:{hard}"));
    }

    fn port(&mut self, port: &Json) {
        // With an address it prints the short form, else the long one.
        let (ip, published, target, protocol) = if let Json::String(short) = port {
            let (rest, protocol) = short.rsplit_once('/').expect("a protocol");
            let (rest, target) = rest.rsplit_once(':').expect("a target");
            let (ip, published) = rest.rsplit_once(':').expect("an address");
            (ip.to_owned(), published.to_owned(), target.to_owned(), protocol.to_owned())
        } else {
            let protocol =
                if port["protocol"].is_null() { "tcp".to_owned() } else { text(&port["protocol"]) };
            (String::new(), text(&port["published"]), text(&port["target"]), protocol)
        };
        self.put(format!("ports.{ip}:{published}:{target}/{protocol}"), "");
    }

    fn extra_hosts(&mut self, hosts: &Json) {
        for (host, address) in map(hosts) {
            self.put(format!("extra_hosts.{host}"), text(&address));
        }
        for pair in list(hosts) {
            let pair = text(&pair);
            let (host, address) = pair.split_once(':').expect("HOST:ADDRESS");
            self.put(format!("extra_hosts.{host}"), address);
        }
    }

    fn healthcheck(&mut self, check: &Map<String, Json>) {
        let test = match check.get("test") {
            Some(Json::String(_)) => Json::from(vec!["CMD-SHELL".to_owned(), text(&check["test"])]),
            Some(test) => words(test),
            None => Json::Array(Vec::new()),
        };
        self.put("healthcheck.test", test);
        for key in ["interval", "timeout", "start_period"] {
            if let Some(duration) = check.get(key) {
                self.put(format!("healthcheck.{key}"), millis(&text(duration)));
            }
        }
        if let Some(retries) = check.get("retries") {
            self.put("healthcheck.retries", text(retries));
        }
    }

    fn device_file(&mut self, device: &str) {
        let mut parts = device.split(':');
        let host = parts.next().expect("a split has a first part");
        let (inside, permissions) = (parts.next().unwrap_or(host), parts.next().unwrap_or("rwm"));
        self.put(format!("device_files.{inside}"), format!("{host} {permissions}"));
    }

    fn grant(&mut self, kind: &str, grant: &Json) {
        let source = text(&grant["source"]);
        let file = self.path(&text(&self.config[kind][&source]["file"]));
        self.put(format!("{kind}.{source}.{}", text(&grant["target"])), file);
    }

    fn build(&mut self, build: &Map<String, Json>) {
        for (key, value) in build {
            match (key.as_str(), value) {
                ("context", context) => {
                    let context = text(context);
                    let context = if context.contains("://") { context } else { self.path(&context) };
                    self.put("build.context", context);
                }
                ("shm_size", size) => self.put("build.shm_size", bytes(&text(size))),
                (_, Json::Object(pairs)) => {
                    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_null()) {
                        self.scalar(format!("build.{key}.{name}"), value);
                    }
                }
                (_, Json::Array(names)) => {
                    for name in names {
                        self.put(format!("build.{key}.{}", text(name)), "");
                    }
                }
                (_, value) => self.put(format!("build.{key}"), text(value)),
            }
        }
    }

    fn extension(&mut self, extension: &Map<String, Json>) {
        for (key, value) in extension {
            match (key.as_str(), value) {
                ("checkpoint", checkpoint) => {
                    for (key, value) in map(checkpoint) {
                        self.put(format!("x-convoke.checkpoint.{key}"), text(&value));
                    }
                }
                ("time_limit" | "fence" | "failure_grace", duration) => {
                    self.put(format!("x-convoke.{key}"), millis(&text(duration)));
                }
                (_, value) => self.put(format!("x-convoke.{key}"), text(value)),
            }
        }
    }
}

fn has_policy(service: &Map<String, Json>) -> bool {
    service.get("deploy").is_some_and(|deploy| !deploy["restart_policy"].is_null())
}

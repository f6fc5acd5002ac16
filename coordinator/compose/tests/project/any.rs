//! Whatever is written is read or refused.

use super::load_with;

/// Values of every shape, most of them wrong for most keys.
const VALUES: [&str; 33] = [
    "",
    "x",
    "[]",
    "{}",
    "[x]",
    "{x: y}",
    "[[x]]",
    "{x: [y]}",
    "[{x: y}]",
    "-1",
    "0",
    "1",
    "true",
    "''",
    "':'",
    "'::'",
    "[':']",
    "['=']",
    "{'': ''}",
    "[null]",
    "{x: null}",
    "'${A'",
    "1-1",
    "/x",
    "[/x]",
    "99999999999999999999",
    "[{source: x, target: y}]",
    "{test: x}",
    "'\\u0000'",
    "{file: x}",
    "[{path: ''}]",
    "{placement: {constraints: ['==']}}",
    "{checkpoint: 1}",
];

#[test]
fn any_value_of_any_key_is_refused_or_reads_back_from_what_config_prints() {
    let keys = "annotations attach build cap_add command configs container_name cpu_shares cpus depends_on deploy \
                develop devices dns entrypoint env_file environment expose extends extra_hosts gpus group_add \
                healthcheck hostname image init ipc labels logging mem_limit mem_reservation memswap_limit \
                network_mode networks pids_limit platform ports profiles pull_policy restart runtime scale secrets \
                shm_size stop_grace_period stop_signal sysctls tmpfs ulimits user volumes working_dir x-convoke";
    let mut accepted = 0;
    for (key, value) in keys.split(' ').flat_map(|key| VALUES.map(|value| (key, value))) {
        for runs in ["command: [c]", "image: i"] {
            let body = format!("services:\n  s:\n    {runs}\n    <<: {{{key}: {value}}}\n");
            let Ok(project) = load_with(&[("compose.yaml", &body)], |_| {}) else { continue };
            let again = load_with(&[("compose.yaml", &project.to_yaml())], |_| {});
            assert_eq!(again.map(|p| p.jobs), Ok(project.jobs.clone()), "{body}{}", project.to_yaml());
            accepted += 1;
        }
    }
    assert!(accepted > 400, "only {accepted} were accepted");
}

proptest::proptest! {
    #[test]
    fn any_text_as_a_job_file_is_read_or_refused(body in "\\PC{0,80}") {
        let _ = load_with(&[("compose.yaml", &body)], |_| {});
    }
}

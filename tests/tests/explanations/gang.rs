//! Gangs: which rank's failure is the cause, and what is told of the others.

use convoke_tests::{BASE, Scene, TORCH};

/// Rank 1 raises; rank 0 would wait for it for ever.
const RAISES: &str = r#"[ "$RANK" = 1 ] || exec sleep 600
cat >&2 <<'END'
Traceback (most recent call last):
  File "/app/train.py", line 12, in <module>
    label = digits[index]
IndexError: list index out of range
END
exit 3
"#;

pub(crate) async fn of_a_gang_the_rank_that_raised_tells_why_and_of_the_others_a_line() {
    let scene = Scene::start(&[1, 1]).await;
    scene.write("train.sh", RAISES);
    scene.compose(&format!(
        "image: {BASE}\nvolumes: [\"./train.sh:/app/train.sh:ro\"]\ncommand: sh /app/train.sh\ndeploy:\n  replicas: 2\n\
         x-convoke:\n  ranks: per-gpu"
    ));
    let words = [
        "rank 1 on node-1: IndexError: list index out of range",
        "\n      File \"/app/train.py\", line 12, in <module>\n",
        "\n  try: fix the program: line 12 of /app/train.py\n",
    ];
    scene.up_fails(3, &words).await;
    let inspect = scene.convoke(&["inspect", "story-job"]).run().await.expect_code(0).stdout;
    assert!(inspect.contains("rank 1 on node-1: IndexError: list index out of range"), "{inspect}");
    assert!(inspect.contains("try: fix the program"), "{inspect}");
    assert!(inspect.contains("rank 0: Convoke stopped it"), "{inspect}");
    let stopped = &scene.job().await["replicas"][0]["tasks"][0]["exit"];
    assert_eq!((&stopped["stopped"], &stopped["explanation"]["cause"]), (&true.into(), &"Stopped".into()));
    let error = scene.convoke(&["wait", "story-job", "-o", "json"]).run().await.expect_code(3).json_error();
    assert_eq!(error["cause"]["cause"], "PythonException");
    scene.cluster.finish().await;
}

pub(crate) async fn a_real_traceback_under_torchrun_is_told_by_its_exception() {
    let scene = Scene::start(&[2]).await;
    scene.write(
        "train.py",
        "import os\nif os.environ['RANK'] == '1':\n    raise ValueError('no such digit')\n",
    );
    scene.compose(&format!(
        "image: {TORCH}\nvolumes: [\"./train.py:/app/train.py:ro\"]\ncommand: torchrun --nproc_per_node=2 \
         /app/train.py"
    ));
    let words = [
        "rank 1 on node-0: ValueError: no such digit\n",
        "\n      File \"/app/train.py\", line 3, in <module>\n",
        "\n  try: fix the program: line 3 of /app/train.py\n",
    ];
    scene.up_fails(1, &words).await;
    scene.cluster.finish().await;
}

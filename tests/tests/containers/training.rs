//! What Convoke is for: a directory that works with `docker compose up` on one host, on several.

use std::fs;

use convoke_proto::v1;
use convoke_tests::{Scene, TRAINER, copy, repository};
use serde_json::Value;

pub(crate) async fn an_unmodified_directory_trains_on_two_nodes_and_its_files_come_back() {
    let scene = Scene::start(&[2, 2]).await;
    let examples = repository().join("examples");
    let directory = scene.project.join("pytorch-ddp");
    copy(&examples.join("pytorch-ddp"), &directory);
    copy(&examples.join("mnist/data"), &scene.project.join("mnist/data"));
    for file in fs::read_dir(directory.join("checkpoints")).expect("it is there").flatten() {
        fs::remove_file(file.path()).expect("it can be removed");
    }
    let up = |epochs, format: &'static [&'static str]| {
        let args = ["-f", "docker-compose.cpu.yml", "up", "--nodes", "2"];
        let cli = scene.convoke(&[&args, format].concat()).directory(&directory);
        cli.variable("EPOCHS", epochs).variable("LIMIT", "400").run()
    };

    let first = up("2", &[]).await.expect_code(0);
    for line in
        ["421,642 parameters, 400 images, 4 ranks on cpu", "Epoch 1/2, Loss: ", "Epoch 2/2, Test accuracy: "]
    {
        let on_rank_0 = |l: &&str| l.contains("rank 0 · node-0 │") && l.contains(line);
        assert!(first.stdout.lines().any(|l| on_rank_0(&l)), "no \"{line}\" of node-0:\n{}", first.stdout);
    }
    let of_node_1 = |l: &str| l.contains("· node-1 │") && l.contains("Epoch 2/2, Loss: ");
    assert!(first.stdout.lines().any(of_node_1), "nothing of node-1:\n{}", first.stdout);
    for epoch in [1, 2] {
        let file = directory.join(format!("checkpoints/epoch_{epoch}.pt"));
        let size = fs::metadata(&file).map(|meta| meta.len()).unwrap_or_default();
        // Twice the parameters of four bytes, for Adam's moments, and the parameters.
        assert!(size > 3 * 4 * 421_642, "{} has {size} bytes\n{}", file.display(), first.stderr);
    }

    for file in [1, 2] {
        fs::remove_file(directory.join(format!("checkpoints/epoch_{file}.pt"))).expect("it is there");
    }
    let second = up("1", &["--output", "json"]).await.expect_code(0);
    let records = second.json_lines();
    let shipped = records.iter().find_map(|record| record.get("shipped")).expect("what was shipped");
    assert_eq!((&shipped["files"], &shipped["bytes"]), (&Value::from(0), &Value::from(0)), "{shipped}");
    assert!(shipped["unchanged_bytes"].as_u64() > Some(1 << 20), "{shipped}");
    assert!(directory.join("checkpoints/epoch_1.pt").is_file());
    scene.cluster.finish().await;
}

pub(crate) async fn the_reference_trainer_trains_as_a_gang_of_containers() {
    let scene = Scene::start(&[2, 2]).await;
    let directory = scene.project.join("mnist");
    copy(&repository().join("examples/mnist"), &directory);
    let image = format!(
        "services:\n  train:\n    image: {TRAINER}\n    volumes: [\"./data:/workspace/data:ro\"]\n    \
         command: convoke-trainer --data data --epochs 1\n"
    );
    fs::write(directory.join("image.yaml"), image).expect("it is writable");
    let up = scene.convoke(&["-f", "compose.yaml", "-f", "image.yaml", "up"]).directory(&directory);
    let up = up.run().await.expect_code(0);
    for line in ["Rank 3 of 4: 2250 of 9000 digits", "Epoch 1/1, Loss: "] {
        assert!(up.stdout.contains(line), "no \"{line}\":\n{}", up.stdout);
    }
    let checkpoints = scene.cluster.checkpoints("mnist-train").await;
    assert_eq!(checkpoints.first().map(|c| c.state()), Some(v1::CheckpointState::Complete));
    scene.cluster.finish().await;
}

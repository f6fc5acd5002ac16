//! A container's name that another container has.

use bollard::models::ContainerStateStatusEnum;
use bollard::query_parameters::RenameContainerOptionsBuilder;
use tracing::{info, warn};

use super::super::TaskKey;
use super::remove::remove_container;
use super::{DockerRuntime, labels};
use crate::engine::EngineError;
use crate::runtime::docker::presence::Reached;

/// What became of a name that was taken.
pub(super) enum Name {
    Free,
    /// The container of that id is this very task's: an earlier agent started it.
    Own(String),
}

impl DockerRuntime {
    /// Takes the name from a container of this agent's that has ended, such as that of the generation before, which
    /// keeps its id. One that has not ended keeps its name, and so does one that another job is about to start: a
    /// sibling may be joining it by that name.
    pub(super) async fn free_name(
        &self,
        reached: &Reached,
        task: &TaskKey,
        name: &str,
    ) -> Result<Name, EngineError> {
        let docker = reached.engine.docker();
        let failed = |error| reached.engine.error("does not free the name of a container", error);
        let holder = match docker.inspect_container(name, None).await.map_err(failed) {
            Err(error) if error.is_not_found() => return Ok(Name::Free),
            holder => holder?,
        };
        let theirs = holder.config.and_then(|config| config.labels).unwrap_or_default();
        let ours = theirs.get(labels::INSTANCE) == Some(&self.shared.config.instance.to_string());
        let state = holder.state.unwrap_or_default();
        let runs = state.running.unwrap_or_default();
        let unstarted = state.status == Some(ContainerStateStatusEnum::CREATED);
        let id = holder.id.unwrap_or_default();
        let taken = |by: String| Err(EngineError::NameTaken { name: name.to_owned(), by });
        let Some(owner) = labels::task(&theirs).filter(|_| ours) else {
            return taken("a container that is not this agent's".to_owned());
        };
        if owner == *task && unstarted {
            info!(%task, "removing its container, which was made and never started");
            remove_container(&reached.engine, &id).await?;
            return Ok(Name::Free);
        }
        if owner == *task {
            warn!(%task, container = id, "was started before, and is taken over");
            return Ok(Name::Own(id));
        }
        let (job, generation) = (&owner.replica.job, owner.replica.generation);
        if runs || unstarted {
            return taken(format!("job {job} (generation {generation}), which has not ended"));
        }
        // Other jobs may have the name, too: the id makes it the container's own.
        let aside = format!("{name}.g{generation}-{}", id.get(..12).unwrap_or(&id));
        info!(container = id, %job, %generation, "its name {name} goes to {task}; it is {aside} from now on");
        let options = RenameContainerOptionsBuilder::default().name(&aside).build();
        match docker.rename_container(&id, options).await.map_err(failed) {
            // It is gone, and its name with it.
            Err(error) if error.is_not_found() => Ok(Name::Free),
            renamed => renamed.map(|()| Name::Free),
        }
    }
}

"""One file a kind of task; `training.conversation.TASKS` names each with its weight."""

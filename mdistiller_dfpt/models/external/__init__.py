"""Networks of other libraries and of the user, adapted to the contract of `StagedModel`."""

"""The router: serves every client by passing its commands on to the storage servers of its job."""

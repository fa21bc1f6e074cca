"""HTTP on the wire: what is sent, received and relayed, and the RPCs to luigid."""

"""What sb3-contrib's algorithms share: wrappers, environments, masks, memory."""

"""The seeded colonoscopy simulator: scene, camera, rays, frames with labels."""

"""What an archive of terabases needs, by simulation and by arithmetic."""
